"""What Redis has and Sadik has not, each with the reason. The connection stays; only the command is refused.

Some cannot mean what they say in a store where any node takes any write: they are refused for good.
Others wait for their converging types. Scripts are never answered with ``-NOSCRIPT``, which would send
clients into loading and trying again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sadik.api.resp.call import CommandError

_CLUSTER: Final = "ERR This instance has cluster support disabled"
"""Redis' own text, which cluster clients know."""

_NEVER: Final = {
    "no linearizable compare-and-set": "watch unwatch",
    "no atomic write of several keys": "msetnx",
    "no atomic change of two keys": """ rename renamenx copy move smove swapdb sinterstore sunionstore
    sdiffstore zunionstore zinterstore zdiffstore zrangestore geosearchstore bitop""",
    "no scripts, which need one executor": """
        eval eval_ro evalsha evalsha_ro fcall fcall_ro script|load script|kill script|debug function|load
        function|delete function|list function|restore function|dump function|kill function|stats""",
    "no blocking pops, which need one owner of each element": """
        blpop brpop brpoplpush blmove blmpop bzpopmin bzpopmax bzmpop""",
    "no lists, which need one order of pushes and pops": """ lpush lpushx rpush rpushx lpop rpop lmpop
    llen lrange lindex lset linsert lrem ltrim lpos lmove rpoplpush sort sort_ro""",
    "no streams, which need one order of entries": """ xadd xread xreadgroup xrange xrevrange xlen xdel
    xtrim xack xclaim xautoclaim xpending xinfo xgroup xsetid""",
    "no replication from or to Redis": """
        replicaof slaveof psync sync replconf failover role migrate restore-asking""",
    "no snapshots, the log is always on disk": "save bgsave bgrewriteaof lastsave",
    "a node is stopped by a signal": "shutdown",
    "no users but the default one": "acl",
    "no modules": "module",
    "no debugging of a running node": "debug monitor lolwut pfdebug pfselftest",
    "no client-side caching": "client|tracking client|caching client|getredir client|trackinginfo",
    "no notice of maintenance": "client|maint_notifications",
    "no pausing or unblocking of others": "client|pause client|unpause client|unblock",
    "no figures but those of INFO and the metrics": """
        memory|stats memory|doctor memory|malloc-stats memory|purge latency|doctor latency|graph""",
}

_NOT_YET: Final = {
    "counters": "incr decr incrby decrby incrbyfloat",
    "bit operations": "getbit setbit bitcount bitpos bitfield bitfield_ro",
    "hashes": """ hset hmset hsetnx hget hmget hgetall hdel hexists hlen hkeys hvals hstrlen hincrby
    hincrbyfloat hrandfield hscan hexpire hpexpire hexpireat hpexpireat httl hpttl hpersist hexpiretime
    hpexpiretime hgetex hsetex hgetdel""",
    "sets": """ sadd srem sismember smismember smembers scard srandmember spop sscan sinter sunion sdiff
    sintercard""",
    "sorted sets": """ zadd zrem zscore zmscore zincrby zcard zcount zlexcount zrange zrevrange
    zrangebyscore zrevrangebyscore zrangebylex zrevrangebylex zrank zrevrank zpopmin zpopmax zmpop
    zrandmember zscan zremrangebyrank zremrangebyscore zremrangebylex zunion zinter zintercard zdiff""",
    "geographic sets": """ geoadd geodist geohash geopos georadius georadius_ro georadiusbymember
    georadiusbymember_ro geosearch""",
    "HyperLogLogs": "pfadd pfcount pfmerge",
    "publish and subscribe": """
        publish spublish subscribe ssubscribe psubscribe unsubscribe sunsubscribe punsubscribe pubsub""",
    "dumping and restoring of values": "dump restore",
    "figures of single keys but MEMORY USAGE": "object",
    "comparing of values": "lcs",
}


def _refusals() -> dict[bytes, str]:
    found: dict[bytes, str] = dict.fromkeys((b"cluster", b"readonly", b"readwrite", b"asking"), _CLUSTER)
    for reason, names in _NEVER.items():
        for name in names.split():
            found[name.encode()] = f"ERR {_spoken(name)} is not supported: {reason}"
    for kind, names in _NOT_YET.items():
        for name in names.split():
            found[name.encode()] = f"ERR {_spoken(name)} is not supported yet: no {kind} so far"
    return found


def _spoken(name: str) -> str:
    return name.upper().replace("|", " ")


_REFUSALS: Final = _refusals()


def refusal(arguments: Sequence[bytes]) -> CommandError | None:
    """The refusal of a command that Redis has; None where Redis has none of that name either (or Sadik
    has it).
    """
    name = arguments[0].lower()
    reason = _REFUSALS.get(name)
    if reason is None and len(arguments) > 1:
        reason = _REFUSALS.get(name + b"|" + arguments[1].lower())
    return None if reason is None else CommandError(reason)
