"""The cache in Redis for readers: stock, the list of low products, and reservations.

| key | value | time to live |
|---|---|---|
| `inventory:available:{product_id}` | JSON: a product's stock | 5 minutes from its last change |
| `inventory:low_stock` | hash by product: all products at or below their threshold | 10 minutes, then it is rebuilt |
| `inventory:low_stock:changes` | hash by product: what changed during a rebuild | 30 seconds |
| `inventory:reservation:order:{order_id}` | JSON: what an order holds | until the hold expires, at most 5 minutes |
| `inventory:reservation:cart:{cart_id}` | JSON: what a cart holds | until the hold expires, at most 5 minutes |

Every value begins with its row's version, and a script compares versions before it writes: a late writer with an older
value changes nothing. Nothing is deleted when a hold ends or a product recovers: the value of an expired order says so,
and the value of a product stays when it leaves the list, so there is always a version to compare with.

Everything here raises `CACHE_ERRORS` when Redis fails; `workers.cache` and `engine.reading` handle them.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import uuid4

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from domain.model import CartStatus, OrderStatus, StockStatus
from storage.stock import Reservation, StockLevel, ordered

STOCK_TTL: Final = timedelta(minutes=5)
LOW_STOCK_TTL: Final = timedelta(minutes=10)
RESERVATION_TTL: Final = timedelta(minutes=5)
REBUILD_TTL: Final = timedelta(seconds=30)
# A longer list is not cached: writing it would block Redis, and nobody reads that many rows.
MAX_LOW_STOCK: Final = 10_000
# Values per script call: it takes a few milliseconds, during which Redis serves no other client.
VALUES_PER_CALL: Final = 500

TIMEOUT_SECONDS: Final = 1.0

CACHE_ERRORS: Final[tuple[type[Exception], ...]] = (RedisError, OSError)
"""What is raised when Redis is missing, dies, is full or refuses; OSError includes TimeoutError."""

# The field that says that the list is complete; no product has an empty id.
_COMPLETE: Final = b""

# KEYS: list, changes, then one key per value. ARGV, for each value: its JSON, its time to live in ms, the product's id
# ("" for a reservation), and "1" when the value may only replace an older one.
_WRITE = """
local function version(value)
    return value and tonumber(string.match(value, '^{"version":(%d+)')) or -1
end
local function newer(value, other)
    return version(value) > version(other) and value or other
end
local listed, rebuilding = redis.call('EXISTS', KEYS[1]) == 1, redis.call('EXISTS', KEYS[2]) == 1
local written = 0
for i = 3, #KEYS do
    local at = (i - 3) * 4
    local value, product_id = ARGV[at + 1], ARGV[at + 3]
    local new = version(value)
    local known = redis.call('GET', KEYS[i])
    if product_id ~= '' and listed then
        known = newer(redis.call('HGET', KEYS[1], product_id), known)
    end
    if product_id ~= '' and rebuilding then
        known = newer(redis.call('HGET', KEYS[2], product_id), known)
    end
    if new >= version(known) and (known or ARGV[at + 4] == '0') then
        redis.call('SET', KEYS[i], value, 'PX', ARGV[at + 2])
        written = written + 1
        if product_id ~= '' then
            if rebuilding then
                redis.call('HSET', KEYS[2], product_id, value)
            end
            if listed and string.match(value, '^{"version":%d+,"stock_status":"ok"') then
                redis.call('HDEL', KEYS[1], product_id)
            elseif listed then
                redis.call('HSET', KEYS[1], product_id, value)
            end
        end
    end
end
return written
"""

# KEYS: changes. ARGV: a token, the time to live in ms. Returns the token of the rebuild in progress, ours or another's.
_BEGIN = """
redis.call('HSETNX', KEYS[1], '', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], '')
"""

# KEYS: list, changes. ARGV: the token, the time to live in ms, then product ids and JSON alternately. A change recorded
# since the rebuild began is at least as new as what was read. When those changes are lost (Redis was emptied, another
# rebuild finished first) the list could be stale, so it is not written.
_FINISH = """
local function version(value)
    return value and tonumber(string.match(value, '^{"version":(%d+)')) or -1
end
if redis.call('HGET', KEYS[2], '') ~= ARGV[1] then
    return 0
end
local newest = {}
for i = 3, #ARGV, 2 do
    newest[ARGV[i]] = ARGV[i + 1]
end
local changes = redis.call('HGETALL', KEYS[2])
for i = 1, #changes, 2 do
    if changes[i] ~= '' and version(changes[i + 1]) >= version(newest[changes[i]]) then
        newest[changes[i]] = changes[i + 1]
    end
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], '', ARGV[1])
for product_id, value in pairs(newest) do
    if not string.match(value, '^{"version":%d+,"stock_status":"ok"') then
        redis.call('HSET', KEYS[1], product_id, value)
    end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


class Batch(NamedTuple):
    """Values to write; `late` ones, read or committed a while ago, may only replace older ones."""

    stock: Sequence[StockLevel] = ()
    orders: Sequence[Reservation] = ()
    carts: Sequence[Reservation] = ()
    late: bool = False


class Cache:
    """The cache in one Redis, under a key prefix of our own; `close()` it at the end. Raises `CACHE_ERRORS`."""

    def __init__(self, url: str, prefix: str = "") -> None:
        # One retry, for a pooled connection that died unnoticed; more would delay readers.
        # Any: redis-py types its methods as blocking and asynchronous at once.
        self._redis: Any = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),
            client_name="inventory",
        )
        self._prefix = f"{prefix}inventory:"
        self._list = f"{self._prefix}low_stock"
        self._changes = f"{self._prefix}low_stock:changes"
        self._write = self._redis.register_script(_WRITE)
        self._begin = self._redis.register_script(_BEGIN)
        self._finish = self._redis.register_script(_FINISH)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    # --- write ----------------------------------------------------------------------------------

    async def write(self, batch: Batch, now: datetime) -> int:
        """Write the values that are newer than those in Redis; returns how many were."""
        values = [
            *((self._stock_key(level.product_id), *_stock_value(level)) for level in batch.stock),
            *((self._order_key(order.owner_id), *_reservation_value(order, now)) for order in batch.orders),
            *((self._cart_key(cart.owner_id), *_reservation_value(cart, now)) for cart in batch.carts),
        ]
        late = "1" if batch.late else "0"
        written = 0
        for start in range(0, len(values), VALUES_PER_CALL):
            step = values[start : start + VALUES_PER_CALL]
            keys = [self._list, self._changes, *(key for key, *_ in step)]
            arguments = [word for _, value, ttl_ms, product_id in step for word in (value, ttl_ms, product_id, late)]
            written += await self._write(keys=keys, args=arguments)
        return written

    async def begin_low_stock(self) -> str:
        """Begin to rebuild the list, recording changes from now on; returns a token. Read the database after this."""
        token = await self._begin(keys=[self._changes], args=[uuid4().hex, _milliseconds(REBUILD_TTL)])
        return str(token.decode())

    async def finish_low_stock(self, token: str, low: Sequence[StockLevel]) -> bool:
        """Replace the list by what was read since `begin_low_stock`, merged with what changed since.

        Returns False, and writes nothing, when changes may have been missed.
        """
        arguments: list[str | bytes | int] = [token, _milliseconds(LOW_STOCK_TTL)]
        for level in low:
            arguments += (level.product_id, _stock_value(level)[0])
        return bool(await self._finish(keys=[self._list, self._changes], args=arguments))

    # --- read -----------------------------------------------------------------------------------

    async def stock(self, product_ids: Collection[str]) -> dict[str, StockLevel]:
        """Return the stock of the products that are in the cache."""
        if not product_ids:
            return {}
        values = await self._redis.mget([self._stock_key(product_id) for product_id in product_ids])
        return {level.product_id: level for level in _levels(values)}

    async def low_stock(self) -> list[StockLevel] | None:
        """Return the products at or below their threshold in the order of their ids; None when there is no list."""
        fields = await self._redis.hgetall(self._list)
        if _COMPLETE not in fields:
            return None
        return ordered(_levels(value for field, value in fields.items() if field != _COMPLETE))

    async def order(self, order_id: str) -> Reservation | None:
        """Return what the order holds, or None when it is not in the cache."""
        return _reservation(await self._redis.get(self._order_key(order_id)), OrderStatus)

    async def cart(self, cart_id: str) -> Reservation | None:
        """Return what the cart holds, or None when it is not in the cache."""
        return _reservation(await self._redis.get(self._cart_key(cart_id)), CartStatus)

    def _stock_key(self, product_id: str) -> str:
        return f"{self._prefix}available:{product_id}"

    def _order_key(self, order_id: str) -> str:
        return f"{self._prefix}reservation:order:{order_id}"

    def _cart_key(self, cart_id: str) -> str:
        return f"{self._prefix}reservation:cart:{cart_id}"


def _stock_value(level: StockLevel) -> tuple[bytes, int, str]:
    """Return the JSON (the scripts match version and status at its start), its time to live in ms, and its product."""
    value = {
        "version": level.version,
        "stock_status": level.stock_status,
        "product_id": level.product_id,
        "available": level.available,
        "reserved": level.reserved,
        "on_hand": level.on_hand,
        "low_stock_threshold": level.low_stock_threshold,
        "updated_at": level.updated_at,
    }
    return orjson.dumps(value), _milliseconds(STOCK_TTL), level.product_id


def _reservation_value(reservation: Reservation, now: datetime) -> tuple[bytes, int, str]:
    value = {
        "version": reservation.version,
        "status": reservation.status,
        "owner_id": reservation.owner_id,
        "user_id": reservation.user_id,
        "lines": reservation.lines,
        "expires_at": reservation.expires_at,
    }
    ttl = RESERVATION_TTL
    # A deadline in the past does not end a hold: holds expire by the low watermark, which may lag.
    if reservation.expires_at is not None and reservation.expires_at > now:
        ttl = min(ttl, reservation.expires_at - now)
    return orjson.dumps(value), max(_milliseconds(ttl), 1), ""


def _levels(values: Iterable[bytes | None]) -> list[StockLevel]:
    return [_level(orjson.loads(value)) for value in values if value is not None]


def _level(fields: dict[str, Any]) -> StockLevel:
    updated_at = fields.pop("updated_at", None)
    status = StockStatus(fields["stock_status"])
    return StockLevel(
        **fields | {"stock_status": status},
        updated_at=None if updated_at is None else datetime.fromisoformat(updated_at),
    )


def _reservation(value: bytes | None, statuses: type[OrderStatus | CartStatus]) -> Reservation | None:
    if value is None:
        return None
    fields = orjson.loads(value)
    expires_at = fields["expires_at"]
    fields["status"] = statuses(fields["status"])
    fields["expires_at"] = None if expires_at is None else datetime.fromisoformat(expires_at)
    return Reservation(**fields)


def _milliseconds(length: timedelta) -> int:
    return int(length.total_seconds() * 1000)
