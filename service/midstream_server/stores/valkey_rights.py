"""What the user may do that the store logs in as: asked once, when it is opened.

A script that is refused a command midway leaves half of what it does, so that must never happen.
"""

import re
from collections.abc import Iterable
from hashlib import sha1

from redis.exceptions import RedisError, ResponseError

from midstream_server.errors import InvalidSettings, StoreUnavailable
from midstream_server.stores.valkey_address import Node, ValkeyAddress
from midstream_server.stores.valkey_connection import Command, ValkeyConnection
from midstream_server.stores.valkey_scripts import Script
from midstream_server.stores.valkey_shard import Level

_OWN = frozenset({"SET", "GET", "DEL", "EXISTS", "ZADD", "ZREM", "ZREVRANGEBYLEX", "INFO"})
_CALLED = re.compile(r"redis\.call\('([A-Z]+)'")
# A key, or a channel, of ours; then commands. Answers those that are not allowed on it; a server before Redis 7 cannot.
# Only of commands whose keys stand in fixed places: asked about EVALSHA without its number of keys, Valkey 9.1 crashes.
_ASK = """
local missing = {}
for at = 2, #ARGV do
  local is_known, is_allowed = pcall(function() return redis.acl_check_cmd(ARGV[at], ARGV[1], ARGV[1], ARGV[1]) end)
  if is_known and not is_allowed then missing[#missing + 1] = ARGV[at] end
end
return missing
"""


def needed_rights(scripts: Iterable[Script], level: Level, *, sharded_messages: bool) -> list[str]:
    """The commands that the store sends, and that its scripts call."""
    called = {name for script in scripts for name in _CALLED.findall(script.text)}
    messages = {"SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"} if sharded_messages else {"PUBLISH", "SUBSCRIBE"}
    waits = {Level.PROCESS: set[str](), Level.DISK: {"WAITAOF"}, Level.REPLICA: {"WAIT"}}
    return sorted(_OWN | called | messages | waits[level])


async def check_rights(address: ValkeyAddress, node: Node, commands: Iterable[str]) -> None:
    """Asks a server whether the user may do all that.

    Raises:
        InvalidSettings: says what it may not.
        StoreUnavailable: the server cannot be asked.
    """
    connection = ValkeyConnection(address, node)
    try:
        await connection.open()
        arguments: Command = (0, "midstream:rights", *commands)
        script = sha1(_ASK.encode(), usedforsecurity=False).hexdigest()
        asked: list[Command] = [("SCRIPT", "LOAD", _ASK), ("EVALSHA", script, *arguments), ("EVAL", _ASK, *arguments)]
        replies = await connection.execute(asked)
    except (OSError, RedisError) as error:
        problem = str(error) or type(error).__name__
        raise StoreUnavailable(f"the run store cannot be reached: {problem}") from error
    finally:
        await connection.close()
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise InvalidSettings(f"store: the server's user may not run scripts: {reply}")
    if missing := replies[-1]:
        names = ", ".join(name.decode() for name in missing)
        raise InvalidSettings(
            f"store: the server's user may not call {names}; "
            'it needs these commands, on keys ("~midstream:*") and channels ("&midstream:*")'
        )
