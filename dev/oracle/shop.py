"""The shop as the design describes it: events go in one by one, stock and what is told come out.

The point of view is not the worker's. The worker moves from state to state; here an order is the set of facts known
about it, and a rule says where its pieces must be for those facts: still free, held, or gone from the shelf. After
every event the pieces are moved to where they must be, and the ledger is what that took. So "any permutation of an
order's events ends in the same stock" is how this model is made, and for the worker it is a property to be shown.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from dev.oracle.events import Event, PublishedEvent, read

WORST = ("ok", "low", "out")

Lines = Mapping[str, int]


@dataclass(frozen=True)
class Settings:
    """The shop's settings that the rules depend on."""

    cart_ttl: timedelta = timedelta(minutes=30)
    order_ttl: timedelta = timedelta(minutes=15)
    default_threshold: int = 10
    late_payment: str = "reserve_again"

    def __deepcopy__(self, memo: object) -> "Settings":
        """Copies of a shop share their settings: nothing changes them."""
        return self


@dataclass(frozen=True)
class Short:
    """A line that could not be served: what was asked for, what was there, and why not."""

    product_id: str
    requested: int
    available: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What `inventory.reservations` must tell about an order or a cart."""

    kind: str
    owner: tuple[str, str]
    cause: str
    lines: tuple[tuple[str, int], ...] = ()
    reason: str | None = None
    short: tuple[Short, ...] = ()


@dataclass(frozen=True)
class Edge:
    """What `inventory.low_stock` (`low`, `out`) or `inventory.stock_recovered` (`ok`) must tell."""

    severity: str
    product_id: str
    on_hand: int
    reserved: int
    threshold: int
    cause: str


@dataclass
class Verdict:
    """What one event must lead to; `settled` are facts that had waited for it, `expired` holds that fell before it."""

    disposition: str
    reason: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    settled: list[tuple[str, str, str | None]] = field(default_factory=list)
    expired: list["Verdict"] = field(default_factory=list)
    short_of: set[str] = field(default_factory=set)


@dataclass
class Shelf:
    """One product: its stock, the worst status told since it was last ok, and its ledger's sums by type."""

    on_hand: int = 0
    reserved: int = 0
    threshold: int = 0
    told: str = "ok"
    version: int = 1
    ledger: Counter[str] = field(default_factory=Counter)
    entries: int = 0

    def __deepcopy__(self, memo: object) -> "Shelf":
        """Copy field by field: the generic way takes ten times as long, and histories are searched by copies."""
        return Shelf(
            self.on_hand, self.reserved, self.threshold, self.told, self.version, Counter(self.ledger), self.entries
        )

    @property
    def free(self) -> int:
        """What can still be promised."""
        return self.on_hand - self.reserved


@dataclass
class OrderFile:
    """The facts known about one order, and what the shelf said when it mattered."""

    order_id: str
    requested: dict[str, int] | None = None
    expires_at: datetime | None = None
    rejected: bool = False
    expired: bool = False
    paid: bool = False
    delivered: bool = False
    undone: bool = False
    cancelled: bool = False
    taken_back: Counter[str] = field(default_factory=Counter)
    refunded: Counter[str] = field(default_factory=Counter)
    withheld: Counter[str] = field(default_factory=Counter)
    waiting: list[Event] = field(default_factory=list)
    judged: set[object] = field(default_factory=set)
    where: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> "OrderFile":
        """Copy field by field, as `Shelf` does."""
        return replace(
            self,
            requested=None if self.requested is None else dict(self.requested),
            taken_back=Counter(self.taken_back),
            refunded=Counter(self.refunded),
            withheld=Counter(self.withheld),
            waiting=list(self.waiting),
            judged=set(self.judged),
            where=dict(self.where),
        )

    def left(self) -> dict[str, int]:
        """Pieces by product that were neither cancelled by line nor refunded."""
        asked = self.requested or {}
        return {p: n - self.taken_back[p] - self.refunded[p] - self.withheld[p] for p, n in asked.items()}

    @property
    def status(self) -> str:
        """Where the order stands, read off its facts."""
        if self.requested is None:
            return "pending"
        if self.delivered:
            return "restocked" if self.cancelled else "deducted"
        if self.cancelled or not any(self.left().values()):
            return "released"
        if self.rejected:
            return "rejected"
        return "expired" if self.expired else "reserved"

    def must_be(self) -> dict[str, tuple[int, int]]:
        """Say for each product how many pieces the order must hold, and how many must be gone for it."""
        places: dict[str, tuple[int, int]] = {}
        for product_id, left in self.left().items():
            withheld = self.withheld[product_id]
            if self.status == "reserved":
                places[product_id] = (left, 0)
            elif self.status == "deducted":
                places[product_id] = (0, left + withheld)
            else:
                places[product_id] = (0, withheld)
        return places


@dataclass
class CartFile:
    """One cart: its newest snapshot's marks, and what it holds."""

    cart_id: str
    status: str = "active"
    held: dict[str, int] = field(default_factory=dict)
    version: int | None = None
    as_of: datetime | None = None
    converted_at: datetime | None = None
    expires_at: datetime | None = None


class Shop:
    """The whole shop.

    With `suppress_repeats`, an event whose (source, id) was taken before does nothing. With `luck`, it is asked whether
    there is enough for an order, not the shelf: `dev.oracle.history` tries both answers.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        suppress_repeats: bool = False,
        luck: Callable[[Lines], bool] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.luck = luck
        self.suppress_repeats = suppress_repeats
        self.shelves: dict[str, Shelf] = {}
        self.orders: dict[str, OrderFile] = {}
        self.carts: dict[str, CartFile] = {}
        self._taken: set[tuple[str, str]] = set()
        self._touched: dict[str, None] = {}

    def apply(self, published: PublishedEvent, horizon: datetime | None = None) -> Verdict:
        """Take one event and say what it must lead to.

        With a horizon, holds due by then on a product that runs short are dropped first, and the event is judged
        again on what that freed.
        """
        event = read(published)
        if self.suppress_repeats and event.identity in self._taken:
            return Verdict("duplicate")
        dropped = [] if horizon is None else list(self._drop_due_holds(event, horizon))
        verdict = self._judge(event)
        verdict.expired = dropped
        if verdict.disposition != "conflict":
            self._taken.add(event.identity)
        return verdict

    def expire_order(self, order_id: str, horizon: datetime) -> Verdict:
        """Drop an order's hold if it was due."""
        order = self.orders.get(order_id)
        if order is None or order.status != "reserved" or order.expires_at is None or order.expires_at >= horizon:
            return Verdict("duplicate")
        cause = f"expired:order:{order_id}"
        held = order.left()
        order.expired = True
        self._settle_stock(order)
        return self._close(Verdict("applied", None, [_about_order("expired", order, cause, held)]), cause)

    def expire_cart(self, cart_id: str, horizon: datetime) -> Verdict:
        """Drop a cart's hold if it was due."""
        cart = self.carts.get(cart_id)
        if cart is None or cart.status != "active" or cart.expires_at is None or cart.expires_at >= horizon:
            return Verdict("duplicate")
        cause = f"expired:cart:{cart_id}"
        outcome = Outcome("expired", ("CART", cart_id), cause, _sorted(cart.held))
        self._empty(cart, "expired")
        return self._close(Verdict("applied", None, [outcome]), cause)

    def forget(self, order_id: str, identity: tuple[str, str]) -> bool:
        """Withdraw a fact that waited past its deadline; False if it does not wait."""
        order = self.orders.get(order_id)
        kept = [] if order is None else [event for event in order.waiting if event.identity != identity]
        if order is None or len(kept) == len(order.waiting):
            return False
        order.waiting = kept
        return True

    def is_enough(self, needed: Lines) -> bool:
        """Say whether every product is known and has the pieces."""
        if self.luck is not None:
            return self.luck(needed)
        return all(p in self.shelves and self.shelves[p].free >= n for p, n in needed.items())

    # --- one event -------------------------------------------------------------------------------

    def _judge(self, event: Event) -> Verdict:
        rules: dict[str, Callable[[Event], Verdict]] = {
            "product.created": self._product_created,
            "inventory.adjustment": self._adjusted,
            "cart.updated": self._cart_updated,
            "order.created": self._order_created,
            "payment.succeeded": self._paid,
            "order.cancelled": self._cancelled,
            "payment.refunded": self._refunded,
        }
        verdict = rules[event.topic](event)
        return self._close(verdict, event.id)

    def _close(self, verdict: Verdict, cause: str) -> Verdict:
        """Judge the edges of what was touched, once, on the net."""
        for product_id in self._touched:
            shelf = self.shelves[product_id]
            if not 0 <= shelf.reserved <= shelf.on_hand:
                raise AssertionError(f"the oracle itself oversold {product_id}: {shelf}")
            shelf.version += 1
            now = status_of(shelf.free, shelf.threshold)
            if must_tell(shelf.told, now):
                shelf.told = now
                verdict.edges.append(Edge(now, product_id, shelf.on_hand, shelf.reserved, shelf.threshold, cause))
        self._touched.clear()
        return verdict

    def _drop_due_holds(self, event: Event, horizon: datetime) -> Iterator[Verdict]:
        short_of = self._would_run_short(event)
        holders = [
            (order.expires_at, "order", order.order_id)
            for order in self.orders.values()
            if order.status == "reserved" and order.expires_at and short_of & order.left().keys()
        ] + [
            (cart.expires_at, "cart", cart.cart_id)
            for cart in self.carts.values()
            if cart.status == "active" and cart.expires_at and short_of & cart.held.keys()
        ]
        for due, kind, owner in sorted(holders):
            if due < horizon:
                yield self.expire_order(owner, horizon) if kind == "order" else self.expire_cart(owner, horizon)

    def _would_run_short(self, event: Event) -> set[str]:
        """Say on which products the event would be judged short, by judging it in a copy of this shop."""
        rehearsal = deepcopy(self)
        rehearsal.suppress_repeats = False
        return rehearsal.apply(event.published).short_of

    # --- products --------------------------------------------------------------------------------

    def _product_created(self, event: Event) -> Verdict:
        product_id = event.data["product_id"]
        if product_id in self.shelves:
            return Verdict("duplicate")
        threshold = event.data.get("low_stock_threshold")
        threshold = self.settings.default_threshold if threshold is None else threshold
        self.shelves[product_id] = Shelf(threshold=threshold, version=0)
        self._touched[product_id] = None
        self._write(product_id, "IN", event.data.get("initial_quantity", 0), 1, 0)
        return Verdict("applied")

    def _adjusted(self, event: Event) -> Verdict:
        product_id = event.data["product_id"]
        shelf = self.shelves.get(product_id)
        if shelf is None:
            return Verdict("refused", "unknown_product")
        expected = event.data.get("expected_version")
        if expected is not None and expected != shelf.version:
            return Verdict("refused", "stale_version")
        quantity = event.data.get("quantity", 0)
        operation = event.data.get("operation")
        after = shelf.on_hand
        if operation is not None:
            after = {"ADD": shelf.on_hand + quantity, "SUBTRACT": shelf.on_hand - quantity, "SET": quantity}[operation]
        if after < shelf.reserved:
            return Verdict("refused", "below_reserved")
        change = after - shelf.on_hand
        self._write(product_id, "ADJUST", abs(change), 1 if change > 0 else -1, 0)
        threshold = event.data.get("low_stock_threshold")
        if threshold is not None and threshold != shelf.threshold:
            shelf.threshold = threshold
            self._touched[product_id] = None
        return Verdict("applied")

    # --- carts -----------------------------------------------------------------------------------

    def _cart_updated(self, event: Event) -> Verdict:
        cart_id, wanted, version = event.data["cart_id"], event.lines or {}, event.data.get("version")
        cart = self.carts.get(cart_id) or CartFile(cart_id)
        if _is_older(cart, event.at, version):
            return Verdict("refused", "stale_version")
        self.carts[cart_id] = cart
        for product_id, held in list(cart.held.items()):
            self._write(product_id, "RELEASE", max(0, held - wanted.get(product_id, 0)), 0, -1)
            cart.held[product_id] = min(held, wanted.get(product_id, 0))
        short: list[Short] = []
        for product_id, pieces in wanted.items():
            has = cart.held.get(product_id, 0)
            known = product_id in self.shelves
            gets = min(pieces - has, self.shelves[product_id].free if known else 0)
            self._write(product_id, "RESERVE", gets, 0, 1)
            cart.held[product_id] = has + gets
            if has + gets < pieces:
                reason = "insufficient_stock" if known else "unknown_product"
                short.append(Short(product_id, pieces, has + gets, reason))
        cart.held = {product_id: held for product_id, held in cart.held.items() if held}
        cart.status = "active" if wanted else "emptied"
        cart.version, cart.as_of = version, event.at
        cart.expires_at = event.at + self.settings.cart_ttl if wanted else None
        verdict = Verdict("applied", short_of=_short_of_stock(short))
        if short:
            short = _unknown_first(short)
            verdict.outcomes.append(
                Outcome("cart_shortage", ("CART", cart_id), event.id, _sorted(cart.held), short[0].reason, tuple(short))
            )
        return verdict

    def _convert_cart(self, cart_id: str | None, at: datetime) -> None:
        """Mark the order's cart converted and let go of its hold, unless the cart is newer than the order."""
        if cart_id is None:
            return
        cart = self.carts.setdefault(cart_id, CartFile(cart_id))
        cart.converted_at = max(cart.converted_at or at, at)
        if cart.as_of is None or cart.as_of <= at:
            self._empty(cart, "converted")
            cart.version, cart.as_of = None, at

    def _empty(self, cart: CartFile, status: str) -> None:
        for product_id, held in cart.held.items():
            self._write(product_id, "RELEASE", held, 0, -1)
        cart.held, cart.status, cart.expires_at = {}, status, None

    # --- orders ----------------------------------------------------------------------------------

    def _order_created(self, event: Event) -> Verdict:
        order = self._order(event)
        asked = dict(event.lines or {})
        if order.requested is not None:
            return Verdict("duplicate" if order.requested == asked else "conflict")
        order.requested = asked
        verdict = Verdict("applied")
        paid_early, cancelled_early = self._take_early_facts(order, verdict)
        cart_id = event.data.get("cart_id")
        if cancelled_early or not any(order.left().values()):
            order.cancelled = cancelled_early
            order.undone = paid_early
            order.paid = paid_early
            self._convert_cart(cart_id, event.at)
            verdict.outcomes.append(_about_order("released", order, event.id, {}))
            return self._judge_waiting_refunds(order, verdict)
        order.paid = paid_early
        short = self._shortages(order.left(), self._own_hold(cart_id, event.at))
        if short:
            order.rejected = True
            kind = "shortfall" if paid_early else "rejected"
            verdict.disposition, verdict.reason = "refused", short[0].reason
            verdict.short_of = _short_of_stock(short)
            verdict.outcomes.append(_about_order(kind, order, event.id, {}, short[0].reason, short))
            return self._judge_waiting_refunds(order, verdict)
        self._convert_cart(cart_id, event.at)
        self._settle_stock(order)
        if paid_early:
            self._deliver(order, verdict, event.id)
            return self._judge_waiting_refunds(order, verdict)
        order.expires_at = event.at + self.settings.order_ttl
        verdict.outcomes.append(_about_order("reserved", order, event.id, order.left()))
        return verdict

    def _take_early_facts(self, order: OrderFile, verdict: Verdict) -> tuple[bool, bool]:
        """Take what came before the order; returns whether it was paid and whether it was cancelled whole."""
        paid, cancelled = order.paid, False
        for event in order.waiting:
            if event.topic == "order.cancelled" and event.lines is not None:
                self._take_back_lines(order, event)
                fits = all(n >= 0 for n in order.left().values()) and event.lines.keys() <= order.left().keys()
                if not fits:
                    order.taken_back.subtract(event.lines)
                reason = None if fits else "cancellation_exceeds_order"
                verdict.settled.append((event.id, "applied" if fits else "refused", reason))
            elif event.topic != "payment.refunded":
                paid = paid or event.topic == "payment.succeeded"
                cancelled = cancelled or event.topic == "order.cancelled"
                verdict.settled.append((event.id, "applied", None))
        order.waiting = [event for event in order.waiting if event.topic == "payment.refunded"]
        return paid, cancelled

    def _paid(self, event: Event) -> Verdict:
        order = self._order(event)
        if order.paid or any(fact.topic == "payment.succeeded" for fact in order.waiting):
            return Verdict("duplicate")
        if order.status == "pending" and not _waits_for_cancellation(order):
            order.waiting.append(event)
            return Verdict("parked")
        order.paid = True
        verdict = Verdict("applied")
        if order.status == "reserved":
            self._deliver(order, verdict, event.id)
        elif order.status == "expired" and self.settings.late_payment == "reserve_again":
            short = self._shortages(order.left(), {})
            if short:
                verdict.short_of = _short_of_stock(short)
                self._refuse_payment(order, verdict, event.id, "reservation_expired", short)
            else:
                order.expired = False
                self._settle_stock(order)
                self._deliver(order, verdict, event.id)
        else:
            reasons = {"rejected": "order_rejected", "expired": "reservation_expired"}
            self._refuse_payment(order, verdict, event.id, reasons.get(order.status, "order_cancelled"), [])
            order.undone = order.status == "released" and not order.rejected
        return self._judge_waiting_refunds(order, verdict)

    def _refuse_payment(self, order: OrderFile, verdict: Verdict, cause: str, reason: str, short: list[Short]) -> None:
        short = short or [Short(p, n, self._free(p), reason) for p, n in order.left().items() if n]
        verdict.disposition, verdict.reason = "refused", reason
        verdict.outcomes.append(_about_order("shortfall", order, cause, {}, reason, short))

    def _deliver(self, order: OrderFile, verdict: Verdict, cause: str) -> None:
        order.delivered = True
        self._settle_stock(order)
        verdict.outcomes.append(_about_order("deducted", order, cause, order.left()))

    def _cancelled(self, event: Event) -> Verdict:
        order = self._order(event)
        if event.lines is not None:
            return self._cancelled_lines(order, event)
        if order.status in {"released", "restocked"} or _waits_for_cancellation(order):
            return Verdict("duplicate")
        if order.status == "pending":
            order.waiting.append(event)
            return Verdict("parked")
        status, left = order.status, order.left()
        order.cancelled = True
        self._settle_stock(order)
        kind = "restocked" if status == "deducted" else "released"
        lines = left if status in {"deducted", "reserved"} else {}
        return Verdict("applied", None, [_about_order(kind, order, event.id, lines)])

    def _cancelled_lines(self, order: OrderFile, event: Event) -> Verdict:
        lines = event.lines or {}
        again = event.identity in order.judged or any(event.identity == fact.identity for fact in order.waiting)
        if again or order.status in {"released", "restocked"}:
            return Verdict("duplicate")
        if order.status == "pending":
            order.waiting.append(event)
            return Verdict("parked")
        order.judged.add(event.identity)
        if any(n > order.left().get(p, 0) for p, n in lines.items()):
            return Verdict("refused", "cancellation_exceeds_order")
        status = order.status
        self._take_back_lines(order, event)
        self._settle_stock(order)
        kind = "restocked" if status == "deducted" else "released"
        moved = lines if status in {"deducted", "reserved"} else {}
        return Verdict("applied", None, [_about_order(kind, order, event.id, moved)])

    @staticmethod
    def _take_back_lines(order: OrderFile, event: Event) -> None:
        order.judged.add(event.identity)
        order.taken_back.update(event.lines or {})

    def _refunded(self, event: Event) -> Verdict:
        order = self._order(event)
        refund_id = event.data["refund_id"]
        if refund_id in order.judged or any(fact.data.get("refund_id") == refund_id for fact in order.waiting):
            return Verdict("duplicate")
        if order.status == "pending" or not (order.paid or order.rejected):
            order.waiting.append(event)
            return Verdict("parked")
        verdict = Verdict("applied")
        verdict.reason = self._take_refund(order, event, verdict)
        verdict.disposition = "refused" if verdict.reason else "applied"
        return verdict

    def _judge_waiting_refunds(self, order: OrderFile, verdict: Verdict) -> Verdict:
        if order.requested is not None and (order.paid or order.rejected):
            for event in order.waiting:
                reason = self._take_refund(order, event, verdict)
                verdict.settled.append((event.id, "refused" if reason else "applied", reason))
            order.waiting = []
        return verdict

    def _take_refund(self, order: OrderFile, event: Event, verdict: Verdict) -> str | None:
        """Take a refund of an order that is created and paid; returns why not, if not."""
        order.judged.add(event.data["refund_id"])
        lines, restock = event.lines or {}, event.data.get("restock", True)
        if order.rejected:
            return "order_rejected"
        if order.status == "expired":
            return "reservation_expired"
        given = order.delivered or order.undone
        all_back = order.status != "deducted"
        if not given or (restock and all_back) or any(n > order.left().get(p, 0) for p, n in lines.items()):
            return "refund_exceeds_deducted"
        if all_back and not self.is_enough(lines):
            return "insufficient_stock"
        (order.refunded if restock else order.withheld).update(lines)
        self._settle_stock(order)
        if restock:
            verdict.outcomes.append(_about_order("restocked", order, event.id, lines))
        elif all_back:
            verdict.outcomes.append(_about_order("deducted", order, event.id, lines))
        return None

    # --- stock -----------------------------------------------------------------------------------

    def _order(self, event: Event) -> OrderFile:
        order_id = event.data["order_id"]
        return self.orders.setdefault(order_id, OrderFile(order_id))

    def _free(self, product_id: str) -> int:
        return self.shelves[product_id].free if product_id in self.shelves else 0

    def _own_hold(self, cart_id: str | None, at: datetime) -> Lines:
        """What the order's cart holds is there for the order, unless the cart is newer than the order."""
        cart = None if cart_id is None else self.carts.get(cart_id)
        return cart.held if cart is not None and cart.as_of is not None and cart.as_of <= at else {}

    def _shortages(self, needed: Lines, own: Lines) -> list[Short]:
        short: list[Short] = []
        for product_id, pieces in needed.items():
            there = self._free(product_id) + own.get(product_id, 0)
            if pieces and product_id not in self.shelves:
                short.append(Short(product_id, pieces, 0, "unknown_product"))
            elif pieces and not self.is_enough({product_id: pieces - own.get(product_id, 0)}):
                short.append(Short(product_id, pieces, there, "insufficient_stock"))
        return _unknown_first(short)

    def _settle_stock(self, order: OrderFile) -> None:
        """Move the order's pieces from where they are to where they must be."""
        for product_id, (held, gone) in order.must_be().items():
            was_held, was_gone = order.where.get(product_id, (0, 0))
            order.where[product_id] = (held, gone)
            leaves, returns = max(0, gone - was_gone), max(0, was_gone - gone)
            from_hold = min(leaves, max(0, was_held - held))
            self._write(product_id, "OUT", from_hold, -1, -1)
            self._write(product_id, "OUT", leaves - from_hold, -1, 0)
            self._write(product_id, "IN", returns, 1, 0)
            self._write(product_id, "RESERVE", held - was_held, 0, 1)
            self._write(product_id, "RELEASE", was_held - from_hold - held, 0, -1)

    def _write(self, product_id: str, kind: str, quantity: int, on_hand: int, reserved: int) -> None:
        """Move `quantity` pieces (none if it is not positive) and enter it in the ledger's sums."""
        if quantity <= 0:
            return
        shelf = self.shelves[product_id]
        shelf.on_hand += on_hand * quantity
        shelf.reserved += reserved * quantity
        shelf.ledger[kind] += on_hand * quantity if kind == "ADJUST" else quantity
        shelf.entries += 1
        self._touched[product_id] = None


def status_of(free: int, threshold: int) -> str:
    """Say how much is left: `out` at nothing, `low` at or below the threshold, else `ok`."""
    if free <= 0:
        return "out"
    return "low" if free <= threshold else "ok"


def must_tell(told: str, now: str) -> bool:
    """Say whether the edge is new: worse than anything told since the last recovery, or the recovery itself."""
    return now != told and (now == "ok" or WORST.index(now) > WORST.index(told))


def _is_older(cart: CartFile, at: datetime, version: int | None) -> bool:
    """Say whether the cart already knows something newer than a snapshot from `at` with `version`."""
    if cart.converted_at is not None and at <= cart.converted_at:
        return True
    if cart.version is not None and version is not None:
        return version <= cart.version
    return cart.as_of is not None and at < cart.as_of


def _waits_for_cancellation(order: OrderFile) -> bool:
    return any(fact.topic == "order.cancelled" and fact.lines is None for fact in order.waiting)


def _unknown_first(short: list[Short]) -> list[Short]:
    return sorted(short, key=lambda line: line.reason != "unknown_product")


def _short_of_stock(short: list[Short]) -> set[str]:
    return {line.product_id for line in short if line.reason == "insufficient_stock"}


def _sorted(lines: Lines) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((p, n) for p, n in lines.items() if n))


def _about_order(
    kind: str, order: OrderFile, cause: str, lines: Lines, reason: str | None = None, short: list[Short] | None = None
) -> Outcome:
    return Outcome(kind, ("ORDER", order.order_id), cause, _sorted(lines), reason, tuple(short or ()))
