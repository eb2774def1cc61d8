"""The server's side of TLS. What is wrong with a file is said at the start, and not by each handshake."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from midstream_server.errors import InvalidSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files. No `cert_file`: plain text. No `client_ca_file`: clients need no certificate."""

    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials | None:
    """What the listener shows and asks for; None is plain text.

    Raises:
        InvalidSettings: a file cannot be read or used; names the setting, and never says what is in the file.
    """
    if not files.cert_file:
        return None
    chain, key = _read("cert_file", files.cert_file), _read("key_file", files.key_file)
    authorities = _read("client_ca_file", files.client_ca_file) if files.client_ca_file else None
    _check(files)
    return grpc.ssl_server_credentials([(key, chain)], authorities, require_client_auth=authorities is not None)


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise InvalidSettings(f"tls.{setting}: cannot read {path}: {why}") from error


def _check(files: TlsFiles) -> None:
    """Loads them as OpenSSL does: gRPC would listen with anything, and then fail each handshake in silence."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(files.cert_file)
    except ssl.SSLError as error:
        raise InvalidSettings(f"tls.cert_file: {files.cert_file} holds no certificate in PEM") from error
    try:
        context.load_cert_chain(files.cert_file, files.key_file, password=_refuse_password)
    except ssl.SSLError as error:
        raise InvalidSettings(
            f"tls.key_file: {files.key_file} is not the key, in PEM, of the first certificate in {files.cert_file}"
        ) from error
    try:
        if files.client_ca_file:
            context.load_verify_locations(files.client_ca_file)
    except ssl.SSLError as error:
        raise InvalidSettings(f"tls.client_ca_file: {files.client_ca_file} holds no certificate in PEM") from error


def _refuse_password() -> str:
    """Otherwise OpenSSL would ask for it on the terminal."""
    raise InvalidSettings(
        "tls.key_file: the key is protected by a password; give one that is not, readable by us alone"
    )
