"""What `midstream doctor` looks at. Each check returns findings; none costs a token or leaves anything behind."""

import asyncio
import ctypes
import enum
import shutil
import socket
import ssl
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from midstream_server.cli.configuration import read_key
from midstream_server.cli.endpoint import Endpoint
from midstream_server.cli.health import probe
from midstream_server.cli.listening import find_obstacle
from midstream_server.cli.processes import holder_of
from midstream_server.errors import InvalidSettings, StoreCorrupt, StoreLocked, StoreUnavailable
from midstream_server.rpc.server import SERVICE
from midstream_server.rpc.tls import TlsFiles, server_credentials
from midstream_server.settings import Settings, UpstreamSettings
from midstream_server.stores.sqlite import SqliteRunStore
from midstream_server.stores.valkey import ValkeyRunStore
from midstream_server.upstreams import local_engine

OLDEST_PYTHON = (3, 11)
LITTLE_SPACE = 200 * 2**20
NO_SPACE = 2**20
"""A run is several pages in the file and in its log."""
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 1.0


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, and what to do about it."""

    subject: str
    level: Level
    message: str
    advice: str = ""


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """The interpreter."""
    shown = ".".join(str(each) for each in version)
    if version < OLDEST_PYTHON:
        return _problem("python", f"this is Python {shown}", "Midstream needs Python 3.11 or later")
    return _fine("python", f"Python {shown}")


# --- Where it listens -------------------------------------------------------------------------------------------------


def check_listen(settings: Settings) -> Finding:
    """Whether the address is free; a Midstream that serves there is as good, if it takes runs."""
    obstacle = find_obstacle(settings.listen_host, settings.listen_port)
    if obstacle is None:
        return _fine("listen", f"{settings.listen} is free")
    if not obstacle.is_taken or not serves(settings):
        return _problem("listen", obstacle.message, obstacle.advice)
    if not settings.tls.cert_file and not probe(Endpoint(settings.listen), SERVICE, _PROBE_SECONDS)[0]:
        return _problem(
            "listen",
            f"a server is running at {settings.listen}, and takes no runs",
            "it drains, or its store is away: see its log, from 'server.draining' or 'store.unavailable' on",
        )
    return _fine("listen", f"a server is running at {settings.listen}")


def serves(settings: Settings) -> bool:
    """Whether a Midstream serves at this address now. Over TLS: one that shows our certificate."""
    if settings.listen_port == 0:
        return False
    if settings.tls.cert_file:
        return _shows_certificate(settings)
    return probe(Endpoint(settings.listen), "", _PROBE_SECONDS)[0]


def check_tls(settings: Settings) -> Finding:
    """Whether the listener can speak TLS with its files."""
    try:
        server_credentials(TlsFiles(**settings.tls.model_dump()))
    except InvalidSettings as error:
        return _problem("tls", error.message, "mend it; the server does not start like this")
    return _fine(
        "tls", f"clients {'must show a certificate' if settings.tls.client_ca_file else 'need no certificate'}"
    )


def _shows_certificate(settings: Settings) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # compared below, and nothing is sent
    address = (settings.listen_host, settings.listen_port)
    try:
        ours = Path(settings.tls.cert_file).read_text(encoding="ascii").partition("-----END CERTIFICATE-----")
        with (
            socket.create_connection(address, timeout=_PROBE_SECONDS) as connection,
            context.wrap_socket(connection) as encrypted,
        ):
            shown = encrypted.getpeercert(binary_form=True)
        return shown == ssl.PEM_cert_to_DER_cert(ours[0][ours[0].index("-----BEGIN") :] + ours[1])
    except (OSError, ValueError):
        return False


# --- The store --------------------------------------------------------------------------------------------------------


async def check_store(settings: Settings) -> Finding:
    """Whether the store can be opened and written."""
    path = settings.sqlite_path
    if settings.workers > 1 and not settings.store.startswith("valkey"):
        advice = "use one that they share, such as valkey://localhost:6379/0, or one worker"
        return _problem("store", f"{settings.workers} workers cannot share {settings.store_shown}", advice)
    if settings.store == "memory:":
        return Finding(
            subject="store",
            level=Level.WARNING,
            message="runs are kept in memory, and lost when the server ends",
            advice="use sqlite:///path to keep them",
        )
    if path is None:
        return await _open_shared_store(settings)
    if finding := _check_folder(path):
        return finding
    opened = await _open_store(path, settings) if path.exists() else None
    if opened is not None and opened.level == Level.PROBLEM:
        return opened
    return _check_space(path) or opened or _fine("store", f"{path} can be written")


def _check_folder(path: Path) -> Finding | None:
    folder = path.absolute().parent
    if not folder.is_dir():
        return _problem("store", f"the folder {folder} does not exist", f"make it: mkdir -p {folder}")
    if path.is_dir():
        return _problem("store", f"{path} is a folder", "name a file in it")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return _problem("store", f"the folder {folder} cannot be written: {error.strerror}", "mend it, or use another")
    return None


async def _open_store(path: Path, settings: Settings) -> Finding | None:
    store = SqliteRunStore(path, durability="process")
    try:
        await store.open()
    except StoreLocked:
        if await asyncio.to_thread(serves, settings):
            return _fine("store", f"{path} is in use by the server that is running")
        who = holder_of(path)
        return _problem(
            "store", f"{path} is in use{f' by {who}' if who else ' by another process'}", "stop it, or use another file"
        )
    except StoreCorrupt as error:
        return _problem("store", error.message, f"move {path} away (a new one is made), or restore a copy")
    except StoreUnavailable as error:
        return _problem("store", error.message, f"see who may write {path}, and whether its disk has room")
    finally:
        await store.close()
    return None


async def _open_shared_store(settings: Settings) -> Finding:
    try:
        store = ValkeyRunStore(settings.store, durability=settings.durability, lease_seconds=settings.replica.lease)
        await store.open()
    except (InvalidSettings, StoreUnavailable) as error:
        return _problem("store", error.message, f"see whether {settings.store_shown} is right, and its server well")
    try:
        await store.probe()
    except StoreUnavailable as error:
        return _problem("store", error.message, "see the log of the server")
    finally:
        await store.close()
    return _fine("store", f"{settings.store_shown} can be written")


def _check_space(path: Path) -> Finding | None:
    free = shutil.disk_usage(path.absolute().parent).free
    if free >= LITTLE_SPACE:
        return None
    if free < NO_SPACE:
        return _problem("store", f"the disk of {path} is full", "make room: until then no run can start")
    return Finding(
        subject="store",
        level=Level.WARNING,
        message=f"only {free // 2**20} MiB are free where {path} is",
        advice="make room: when the disk is full, no run can start",
    )


# --- Upstreams --------------------------------------------------------------------------------------------------------


async def check_upstream(name: str, upstream: UpstreamSettings, environment: Mapping[str, str]) -> Finding:
    """Whether its key is there, and whether it accepts a connection. Sends no request."""
    subject = f"upstream {name}"
    try:
        read_key(name, upstream, environment)
    except InvalidSettings as error:
        return _problem(subject, error.message.removeprefix(f"upstreams.{name}: "), "see 'midstream config'")
    address = urlsplit(upstream.base_url)
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    try:
        await _connect(host, port, tls=address.scheme == "https")
    except (OSError, TimeoutError) as error:
        return _unreachable(subject, f"{host}:{port}", error)
    return _fine(subject, f"{host}:{port} accepts connections")


async def _connect(host: str, port: int, *, tls: bool) -> None:
    async with asyncio.timeout(_CONNECT_SECONDS):
        _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context() if tls else None)
    writer.close()


def _unreachable(subject: str, place: str, error: Exception) -> Finding:
    match error:
        case socket.gaierror():
            return _problem(subject, f"the host of {place} is unknown", "see base_url, and whether there is a network")
        case ssl.SSLError():
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            return _problem(
                subject, f"{place} cannot be trusted: {why}", "see base_url (http or https?) and its certificate"
            )
        case TimeoutError():
            return _problem(subject, f"{place} does not answer", "see base_url, and whether a firewall is in the way")
        case ConnectionRefusedError():
            return _problem(subject, f"nothing listens at {place}", "start it, or see base_url")
    return _problem(subject, f"{place} cannot be reached: {error}", "see base_url, and whether there is a network")


# --- The model on this machine ----------------------------------------------------------------------------------------


def check_local(library: str = "libgomp.so.1") -> Finding:
    """Whether this machine can run the local model. `library` is what the engine's wheel does not bring."""
    subject = "local model"
    if problem := local_engine.find_problem():
        return _problem(subject, problem, "or go without it: --no-local, or enabled = false under [local]")
    try:
        ctypes.CDLL(library)
    except OSError:
        return _problem(subject, f"the system library {library} is missing", "apt-get install libgomp1")
    return _fine(subject, "local/smollm2 can run")


def _problem(subject: str, message: str, advice: str) -> Finding:
    return Finding(subject=subject, level=Level.PROBLEM, message=message, advice=advice)


def _fine(subject: str, message: str) -> Finding:
    return Finding(subject=subject, level=Level.OK, message=message)
