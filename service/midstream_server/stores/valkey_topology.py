"""Which servers take writes, and what they can do."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError, ResponseError

from midstream_server.errors import InvalidSettings, StoreUnavailable
from midstream_server.stores.valkey_address import Node, ValkeyAddress
from midstream_server.stores.valkey_connection import Reply, ValkeyConnection
from midstream_server.stores.valkey_shard import Level

SLOTS = 16384
KEEPS_ALL = "noeviction"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The primaries, each with its ranges of slots (all of them: no cluster), and every node that was named."""

    primaries: Sequence[Node]
    owners: Sequence[int]
    """For each slot the index of its primary; empty without a cluster."""
    known: Sequence[Node]

    @property
    def is_cluster(self) -> bool:
        """Whether the keys are spread over several primaries."""
        return bool(self.owners)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a server can do."""

    version: str
    sharded_messages: bool
    confirms_disk: bool

    @property
    def missing(self) -> list[str]:
        """What this program would use, and does without."""
        parts = {"SPUBLISH": self.sharded_messages, "WAITAOF": self.confirms_disk}
        return [name for name, is_there in parts.items() if not is_there]


async def discover(address: ValkeyAddress, known: Iterable[Node]) -> Topology:
    """Asks the nodes, in turn, who takes writes.

    Raises:
        StoreUnavailable: none of them knows.
        InvalidSettings: it is a cluster, and the address names a database.
    """
    candidates: list[tuple[int, int, Topology]] = []
    asked: set[Node] = set()
    waiting = list(dict.fromkeys([*known, *address.nodes]))
    problem = "no server was named"
    while waiting:
        node = waiting.pop(0)
        if node in asked:
            continue
        asked.add(node)
        try:
            answer = await _ask(address, node)
        except (OSError, RedisError) as error:
            problem = str(error) or type(error).__name__
            continue
        if answer.cluster is not None:
            if address.database:
                raise InvalidSettings("store: a cluster has no databases; leave out what follows the host")
            return answer.cluster
        waiting.extend(answer.neighbours)
        if answer.is_primary:
            topology = Topology(primaries=[node], owners=(), known=[node, *answer.neighbours])
            candidates.append((len(answer.neighbours), answer.offset, topology))
            if answer.neighbours:
                break
        problem = "no server of the run store is a primary"
    if not candidates:
        raise StoreUnavailable(f"the run store cannot be reached: {problem}")
    # Of several that believe to be primaries, the one that others replicate, then the one that has seen most.
    return max(candidates, key=lambda candidate: candidate[:2])[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    is_primary: bool
    offset: int
    neighbours: Sequence[Node]
    cluster: Topology | None = None


async def _ask(address: ValkeyAddress, node: Node) -> _Answer:
    connection = ValkeyConnection(address, node)
    try:
        await connection.open()
        (text,) = await connection.execute([("INFO",)])
        info = parse_info(text)
        if info.get("cluster_enabled") == "1":
            (slots,) = await connection.execute([("CLUSTER", "SLOTS")])
            return _Answer(is_primary=False, offset=0, neighbours=(), cluster=_cluster(node, slots))
    finally:
        await connection.close()
    if info["role"] == "master":
        replicas = [_replica(value) for name, value in info.items() if name.startswith("slave") and "ip=" in value]
        return _Answer(is_primary=True, offset=int(info["master_repl_offset"]), neighbours=replicas)
    primary = (info["master_host"], int(info["master_port"]))
    return _Answer(is_primary=False, offset=0, neighbours=[primary])


def _replica(value: str) -> Node:
    fields = dict(field.partition("=")[::2] for field in value.split(","))
    return fields["ip"], int(fields["port"])


def _cluster(asked: Node, slots: Reply) -> Topology:
    if isinstance(slots, ResponseError):
        raise slots
    owners = [-1] * SLOTS
    primaries: list[Node] = []
    known: list[Node] = []
    for first, last, *nodes in slots:
        found = [(each[0].decode() or asked[0], int(each[1])) for each in nodes if each[0] != b"?"]
        known.extend(found)
        if not found:
            continue
        if found[0] not in primaries:
            primaries.append(found[0])
        owners[first : last + 1] = [primaries.index(found[0])] * (last + 1 - first)
    if -1 in owners:
        raise ResponseError("CLUSTERDOWN some slots of the cluster have no server")
    return Topology(primaries=primaries, owners=owners, known=list(dict.fromkeys([*known, asked])))


def parse_info(text: Reply) -> Mapping[str, str]:
    """The facts of INFO."""
    if isinstance(text, ResponseError):
        raise text
    lines = (line.partition(":") for line in text.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


# --- What is asked of a server once, when the store is opened ---------------------------------------------------------


async def inspect(address: ValkeyAddress, node: Node, level: Level) -> Features:
    """Whether a primary keeps what it is given, at this level.

    Raises:
        InvalidSettings: it never would; says which setting of whose.
        StoreUnavailable: it cannot be asked, or has no replica at the level `replica`.
    """
    connection = ValkeyConnection(address, node)
    try:
        await connection.open()
        text, commands = await connection.execute([("INFO",), ("COMMAND", "INFO", "waitaof", "spublish")])
        info = parse_info(text)
    except (OSError, RedisError) as error:
        problem = str(error) or type(error).__name__
        raise StoreUnavailable(f"the run store cannot be reached: {problem}") from error
    finally:
        await connection.close()
    found = [bool(each) for each in commands] if isinstance(commands, list) else [False, False]
    features = Features(
        version=f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}",
        confirms_disk=found[0],
        sharded_messages=found[1],
    )
    _check(info, features, level)
    return features


def _check(info: Mapping[str, str], features: Features, level: Level) -> None:
    if (policy := info.get("maxmemory_policy", KEEPS_ALL)) != KEEPS_ALL:
        raise InvalidSettings(
            f'store: the server would drop runs when its memory is full (maxmemory-policy is "{policy}"); '
            'set it to "noeviction"'
        )
    if level is Level.DISK and not features.confirms_disk:
        raise InvalidSettings(
            f'durability: "disk" needs a server that has WAITAOF (Valkey, or Redis 7.2); this one is {features.version}'
        )
    if level is Level.DISK and info.get("aof_enabled") != "1":
        raise InvalidSettings(
            'durability: "disk" needs a server with an append-only file; set its "appendonly" to "yes"'
        )
    if level is Level.REPLICA and info.get("connected_slaves", "0") == "0":
        raise StoreUnavailable('the run store has no replica, and durability is "replica"')
