"""The server that a command talks to, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from midstream_server.cli.outcome import CommandFailed

if TYPE_CHECKING:  # a command that only prints its help loads neither
    import grpc

    from midstream_client import AsyncClient, Client

SYSTEM = "system"
"""In place of a file: the authorities that this machine trusts."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address. With `ca` or `cert` it is reached with TLS."""

    address: str
    ca: str | None = None
    cert: str | None = None

    def client(self) -> "Client":
        """A client for threads."""
        from midstream_client import Client

        return Client(self.address, credentials=self.credentials())

    def async_client(self) -> "AsyncClient":
        """A client for an event loop."""
        from midstream_client import AsyncClient

        return AsyncClient(self.address, credentials=self.credentials())

    def credentials(self) -> "grpc.ChannelCredentials | None":
        """What the client trusts and shows; None is plain text.

        Raises:
            CommandFailed: a file cannot be read, or is not what it should be.
        """
        if self.ca is None and self.cert is None:
            return None
        import grpc

        authorities = None if self.ca in (None, SYSTEM) else _read("--tls-ca", self.ca, "CERTIFICATE")
        if self.cert is None:
            return grpc.ssl_channel_credentials(authorities)
        own = _read("--tls-cert", self.cert, "CERTIFICATE", "PRIVATE KEY")
        return grpc.ssl_channel_credentials(authorities, private_key=own, certificate_chain=own)


def _read(flag: str, path: str | None, *labels: str) -> bytes:
    try:
        content = Path(path or "").read_bytes()
    except OSError as error:
        raise CommandFailed(f"{flag}: cannot read {path}: {error.strerror}") from error
    for label in labels:
        if f"{label}-----".encode() not in content:
            raise CommandFailed(f"{flag}: {path} holds no {label} in PEM")
    return content
