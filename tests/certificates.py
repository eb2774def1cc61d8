"""Certificates for tests: an authority, and what it issued, as files."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme


class Authority:
    """Issues certificates into a folder, under names of its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._name = name
        self._authority = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str) -> "Identity":
        """A certificate for these names and addresses."""
        issued = self._authority.issue_cert(*names)
        identity = Identity(*(self._folder / f"{self._name}-{names[0]}.{end}" for end in ("crt", "key", "pem")))
        identity.chain_file.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        identity.key_file.write_bytes(issued.private_key_pem.bytes())
        identity.both_file.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        return identity

    def credentials(self, identity: "Identity | None" = None) -> grpc.ChannelCredentials:
        """Of a client that trusts this authority, and shows a certificate if it has one."""
        if identity is None:
            return grpc.ssl_channel_credentials(self.file.read_bytes())
        return grpc.ssl_channel_credentials(
            self.file.read_bytes(), identity.key_file.read_bytes(), identity.chain_file.read_bytes()
        )


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in two files and in one."""

    chain_file: Path
    key_file: Path
    both_file: Path
