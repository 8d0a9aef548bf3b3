"""The shop as the design describes it: events go in one by one; stock, outcomes and edges come out.

The model differs from the worker's on purpose. The worker is a state machine; here an order is the set of facts known
about it, and one rule says how many of its units those facts require to be held and to be deducted. After every event
the stock is moved to what the rule requires, and the ledger records those movements. So "any permutation of an order's
events ends in the same stock" is true of this model by construction, while the worker has to be tested for it.
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
        """Copies of a shop share their settings, which are immutable."""
        return self


@dataclass(frozen=True)
class Short:
    """A line that could not be served in full: units requested, units available for it, and the reason."""

    product_id: str
    requested: int
    available: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What must be published on `inventory.reservations` about an order or a cart."""

    kind: str
    owner: tuple[str, str]
    cause: str
    lines: tuple[tuple[str, int], ...] = ()
    reason: str | None = None
    short: tuple[Short, ...] = ()


@dataclass(frozen=True)
class Edge:
    """What must be published on `inventory.low_stock` (`low`, `out`) or `inventory.stock_recovered` (`ok`)."""

    severity: str
    product_id: str
    on_hand: int
    reserved: int
    threshold: int
    cause: str


@dataclass
class Verdict:
    """What one event must lead to.

    `back_in_stock` are the products that must be published on that topic: available went from 0 to more.
    `resolved` are the waiting facts that it let be judged, `expired` the verdicts on due holds that expired before it,
    `short_of` the products that more stock would have helped.
    """

    disposition: str
    reason: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    back_in_stock: list[str] = field(default_factory=list)
    resolved: list[tuple[str, str, str | None]] = field(default_factory=list)
    expired: list["Verdict"] = field(default_factory=list)
    short_of: set[str] = field(default_factory=set)


@dataclass
class Product:
    """One product: its stock, the worst status reported since it was last ok, and its ledger's sums by type.

    `was_available` are the units available after the event before; None until its creation has been judged.
    """

    on_hand: int = 0
    reserved: int = 0
    threshold: int = 0
    reported: str = "ok"
    version: int = 1
    ledger: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    was_available: int | None = None

    def __deepcopy__(self, memo: object) -> "Product":
        """Copy field by field: the search through histories copies a lot, the generic way at ten times the cost."""
        return Product(
            self.on_hand,
            self.reserved,
            self.threshold,
            self.reported,
            self.version,
            Counter(self.ledger),
            self.entries,
            self.was_available,
        )

    @property
    def available(self) -> int:
        """Units that can still be promised."""
        return self.on_hand - self.reserved


@dataclass
class OrderFacts:
    """The facts known about one order, and the answers that depended on stock: `rejected`, `expired`, `deducted`.

    `refunded` and `returned` are the units that refunds name: those that may be the money of cancelled units, and those
    that were delivered and came back. `not_restocked` are the units of both that stay off the stock. `placed` are the
    units held and deducted now, by product.
    """

    order_id: str
    requested: dict[str, int] | None = None
    expires_at: datetime | None = None
    rejected: bool = False
    expired: bool = False
    paid: bool = False
    deducted: bool = False
    cancelled: bool = False
    cancelled_lines: Counter[str] = field(default_factory=Counter)
    refunded: Counter[str] = field(default_factory=Counter)
    returned: Counter[str] = field(default_factory=Counter)
    not_restocked: Counter[str] = field(default_factory=Counter)
    waiting: list[Event] = field(default_factory=list)
    judged: dict[object, Event] = field(default_factory=dict)
    payments: set[str] = field(default_factory=set)
    placed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __deepcopy__(self, memo: object) -> "OrderFacts":
        """Copy field by field, as `Product` does."""
        return replace(
            self,
            requested=None if self.requested is None else dict(self.requested),
            cancelled_lines=Counter(self.cancelled_lines),
            refunded=Counter(self.refunded),
            returned=Counter(self.returned),
            not_restocked=Counter(self.not_restocked),
            waiting=list(self.waiting),
            judged=dict(self.judged),
            payments=set(self.payments),
            placed=dict(self.placed),
        )

    def remaining(self) -> dict[str, int]:
        """Return the units by product that the customer did not give up, by cancelling lines or by refunds.

        A refund may be the money of a cancellation, so of the two only the larger number was given up.
        """
        asked = self.requested or {}
        return {p: n - max(self.cancelled_lines[p], self.refunded[p]) - self.returned[p] for p, n in asked.items()}

    def cancellable(self) -> dict[str, int]:
        """Return the units by product that a cancellation can still name."""
        return {p: n - self.cancelled_lines[p] - self.returned[p] for p, n in (self.requested or {}).items()}

    def refundable(self) -> dict[str, int]:
        """Return the units by product that a refund can still name."""
        return {p: n - self.refunded[p] - self.returned[p] for p, n in (self.requested or {}).items()}

    @property
    def status(self) -> str:
        """The order's status, which follows from its facts."""
        if self.requested is None:
            return "pending"
        if self.deducted:
            return "restocked" if self.cancelled else "deducted"
        if self.cancelled or not any(self.remaining().values()):
            return "released"
        if self.rejected:
            return "rejected"
        return "expired" if self.expired else "reserved"

    def required(self) -> dict[str, tuple[int, int]]:
        """Return by product how many units the order must hold, and how many must be deducted for it."""
        places: dict[str, tuple[int, int]] = {}
        for product_id, left in self.remaining().items():
            not_restocked = self.not_restocked[product_id]
            if self.status == "reserved":
                places[product_id] = (left, 0)
            elif self.status == "deducted":
                places[product_id] = (0, left + not_restocked)
            else:
                places[product_id] = (0, not_restocked)
        return places


@dataclass
class Cart:
    """One cart: version and time of its newest snapshot, and its hold."""

    cart_id: str
    status: str = "active"
    held: dict[str, int] = field(default_factory=dict)
    version: int | None = None
    as_of: datetime | None = None
    converted_at: datetime | None = None
    expires_at: datetime | None = None


class Shop:
    """The whole shop.

    With `suppress_repeats`, an event whose (source, id) was applied before does nothing. Where given, `has_stock`
    answers in place of the stock whether an order can be served: `dev.oracle.history` tries both answers.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        suppress_repeats: bool = False,
        has_stock: Callable[[Lines], bool] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.has_stock = has_stock
        self.suppress_repeats = suppress_repeats
        self.products: dict[str, Product] = {}
        self.orders: dict[str, OrderFacts] = {}
        self.carts: dict[str, Cart] = {}
        self._applied: set[tuple[str, str]] = set()
        self._touched: dict[str, None] = {}

    def apply(self, published: PublishedEvent, due_before: datetime | None = None) -> Verdict:
        """Apply one event and return what it must lead to.

        With `due_before`, as long as the event would run short of a product, the oldest hold on it that is due before
        then expires first: by deadline, then kind, then id.
        """
        event = read(published)
        if self.suppress_repeats and event.identity in self._applied:
            return Verdict("duplicate")
        expired = [] if due_before is None else list(self._expire_due_holds(event, due_before))
        verdict = self._judge(event)
        verdict.expired = expired
        if verdict.disposition != "conflict":
            self._applied.add(event.identity)
        return verdict

    def expire_order(self, order_id: str, due_before: datetime) -> Verdict:
        """Release an order's hold if it was due."""
        order = self.orders.get(order_id)
        if order is None or order.status != "reserved" or order.expires_at is None or order.expires_at >= due_before:
            return Verdict("duplicate")
        cause = f"expired:order:{order_id}"
        held = order.remaining()
        order.expired = True
        self._move_to_required(order)
        return self._close(Verdict("applied", None, [_about_order("expired", order, cause, held)]), cause)

    def expire_cart(self, cart_id: str, due_before: datetime) -> Verdict:
        """Release a cart's hold if it was due."""
        cart = self.carts.get(cart_id)
        if cart is None or cart.status != "active" or cart.expires_at is None or cart.expires_at >= due_before:
            return Verdict("duplicate")
        cause = f"expired:cart:{cart_id}"
        outcome = Outcome("expired", ("CART", cart_id), cause, _sorted(cart.held))
        self._empty(cart, "expired")
        return self._close(Verdict("applied", None, [outcome]), cause)

    def forget(self, order_id: str, identity: tuple[str, str]) -> bool:
        """Withdraw a fact that waited past its deadline; returns False if no such fact waits."""
        order = self.orders.get(order_id)
        kept = [] if order is None else [event for event in order.waiting if event.identity != identity]
        if order is None or len(kept) == len(order.waiting):
            return False
        order.waiting = kept
        return True

    def is_enough(self, needed: Lines) -> bool:
        """Say whether every product is known and has that many units available."""
        if self.has_stock is not None:
            return self.has_stock(needed)
        return all(p in self.products and self.products[p].available >= n for p, n in needed.items())

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
        """Judge the edges of the touched products, once, on the net of the event."""
        for product_id in self._touched:
            product = self.products[product_id]
            if not 0 <= product.reserved <= product.on_hand:
                raise AssertionError(f"the oracle itself oversold {product_id}: {product}")
            product.version += 1
            now = status_of(product.available, product.threshold)
            if is_edge(product.reported, now):
                product.reported = now
                verdict.edges.append(Edge(now, product_id, product.on_hand, product.reserved, product.threshold, cause))
            if product.was_available == 0 < product.available:
                verdict.back_in_stock.append(product_id)
            product.was_available = product.available
        self._touched.clear()
        return verdict

    def _expire_due_holds(self, event: Event, due_before: datetime) -> Iterator[Verdict]:
        """Expire the oldest due hold with units of what the event is short of, and judge again, until nothing helps."""
        while short_of := self._would_run_short(event):
            due = [
                (order.expires_at, "order", order.order_id)
                for order in self.orders.values()
                if order.status == "reserved"
                and order.expires_at
                and order.expires_at < due_before
                and any(order.remaining().get(product_id) for product_id in short_of)
            ] + [
                (cart.expires_at, "cart", cart.cart_id)
                for cart in self.carts.values()
                if cart.status == "active"
                and cart.expires_at
                and cart.expires_at < due_before
                and short_of & cart.held.keys()
            ]
            if not due:
                return
            _, kind, owner = min(due)
            yield self.expire_order(owner, due_before) if kind == "order" else self.expire_cart(owner, due_before)

    def _would_run_short(self, event: Event) -> set[str]:
        """Return the products of which the event would find too little, by applying it to a copy of this shop."""
        rehearsal = deepcopy(self)
        rehearsal.suppress_repeats = False
        return rehearsal.apply(event.published).short_of

    # --- products --------------------------------------------------------------------------------

    def _product_created(self, event: Event) -> Verdict:
        product_id = event.data["product_id"]
        if product_id in self.products:
            return Verdict("duplicate")
        threshold = event.data.get("low_stock_threshold")
        threshold = self.settings.default_threshold if threshold is None else threshold
        self.products[product_id] = Product(threshold=threshold, version=0)
        self._touched[product_id] = None
        self._write(product_id, "IN", event.data.get("initial_quantity", 0), 1, 0)
        return Verdict("applied")

    def _adjusted(self, event: Event) -> Verdict:
        product_id = event.data["product_id"]
        product = self.products.get(product_id)
        if product is None:
            return Verdict("refused", "unknown_product")
        expected = event.data.get("expected_version")
        if expected is not None and expected != product.version:
            return Verdict("refused", "stale_version")
        quantity = event.data.get("quantity", 0)
        operation = event.data.get("operation")
        after = product.on_hand
        if operation is not None:
            after = {"ADD": product.on_hand + quantity, "SUBTRACT": product.on_hand - quantity, "SET": quantity}[
                operation
            ]
        if after < product.reserved:
            return Verdict("refused", "below_reserved")
        change = after - product.on_hand
        self._write(product_id, "ADJUST", abs(change), 1 if change > 0 else -1, 0)
        threshold = event.data.get("low_stock_threshold")
        if threshold is not None and threshold != product.threshold:
            product.threshold = threshold
            self._touched[product_id] = None
        return Verdict("applied")

    # --- carts -----------------------------------------------------------------------------------

    def _cart_updated(self, event: Event) -> Verdict:
        cart_id, wanted, version = event.data["cart_id"], event.lines or {}, event.data.get("version")
        cart = self.carts.get(cart_id) or Cart(cart_id)
        if _is_stale(cart, event.at, version):
            return Verdict("refused", "stale_version")
        self.carts[cart_id] = cart
        for product_id, held in list(cart.held.items()):
            self._write(product_id, "RELEASE", max(0, held - wanted.get(product_id, 0)), 0, -1)
            cart.held[product_id] = min(held, wanted.get(product_id, 0))
        short: list[Short] = []
        for product_id, units in wanted.items():
            has = cart.held.get(product_id, 0)
            known = product_id in self.products
            gets = min(units - has, self.products[product_id].available if known else 0)
            self._write(product_id, "RESERVE", gets, 0, 1)
            cart.held[product_id] = has + gets
            if has + gets < units:
                reason = "insufficient_stock" if known else "unknown_product"
                short.append(Short(product_id, units, has + gets, reason))
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
        """Mark the order's cart converted and release its hold, unless the cart is newer than the order."""
        if cart_id is None:
            return
        cart = self.carts.setdefault(cart_id, Cart(cart_id))
        cart.converted_at = max(cart.converted_at or at, at)
        if cart.as_of is None or cart.as_of <= at:
            self._empty(cart, "converted")
            cart.version, cart.as_of = None, at

    def _empty(self, cart: Cart, status: str) -> None:
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
        paid_early, cancelled_early = self._apply_early_facts(order, verdict)
        cart_id = event.data.get("cart_id")
        if cancelled_early or not any(order.remaining().values()):
            order.cancelled = cancelled_early
            order.paid = paid_early
            self._convert_cart(cart_id, event.at)
            verdict.outcomes.append(_about_order("released", order, event.id, {}))
            return self._judge_waiting_refunds(order, verdict)
        order.paid = paid_early
        short = self._shortages(order.remaining(), self._own_hold(cart_id, event.at))
        if short:
            order.rejected = True
            kind = "shortfall" if paid_early else "rejected"
            verdict.disposition, verdict.reason = "refused", short[0].reason
            verdict.short_of = _short_of_stock(short)
            verdict.outcomes.append(_about_order(kind, order, event.id, {}, short[0].reason, short))
            return self._judge_waiting_refunds(order, verdict)
        self._convert_cart(cart_id, event.at)
        self._move_to_required(order)
        if paid_early:
            self._deduct(order, verdict, event.id)
            return self._judge_waiting_refunds(order, verdict)
        order.expires_at = event.at + self.settings.order_ttl
        verdict.outcomes.append(_about_order("reserved", order, event.id, order.remaining()))
        return verdict

    def _apply_early_facts(self, order: OrderFacts, verdict: Verdict) -> tuple[bool, bool]:
        """Apply the facts that arrived before the order; returns whether it is paid, and whether cancelled whole."""
        asked = order.requested or {}
        again: list[Event] = []
        paid, cancelled = order.paid, order.cancelled
        for event in order.waiting:
            if event.topic == "order.cancelled" and event.lines is not None:
                self._cancel_units(order, event)
                fits = all(n >= 0 for n in order.cancellable().values()) and event.lines.keys() <= asked.keys()
                if not fits:
                    order.cancelled_lines.subtract(event.lines)
                reason = None if fits else "cancellation_exceeds_order"
                verdict.resolved.append((event.id, "applied" if fits else "refused", reason))
            elif event.topic == "payment.succeeded" and paid:
                again.append(event)
            elif event.topic != "payment.refunded":
                order.payments.update(filter(None, [event.data.get("payment_id")]))
                paid = paid or event.topic == "payment.succeeded"
                cancelled = cancelled or event.topic == "order.cancelled"
                verdict.resolved.append((event.id, "applied", None))
        order.waiting = again + [event for event in order.waiting if event.topic == "payment.refunded"]
        return paid, cancelled

    def _paid(self, event: Event) -> Verdict:
        order = self._order(event)
        payments = [fact for fact in order.waiting if fact.topic == "payment.succeeded"]
        if order.paid or payments:
            known = order.payments | {fact.data.get("payment_id") for fact in payments} - {None}
            if not known or event.data.get("payment_id") in {None, *known}:
                return Verdict("duplicate")
            if not order.paid:
                order.waiting.append(event)
                return Verdict("parked")
            verdict = Verdict("refused", "already_paid")
            verdict.outcomes.append(self._paid_again(order, event))
            return verdict
        if order.status == "pending" and not _is_cancelled_early(order):
            order.waiting.append(event)
            return Verdict("parked")
        order.paid = True
        order.payments.update(filter(None, [event.data.get("payment_id")]))
        verdict = Verdict("applied")
        if order.status == "pending":
            self._settle_early_cancellation(order, verdict)
        if order.status == "reserved":
            self._deduct(order, verdict, event.id)
        elif order.status == "expired" and self.settings.late_payment == "reserve_again":
            short = self._shortages(order.remaining(), {})
            if short:
                verdict.short_of = _short_of_stock(short)
                self._refuse_payment(order, verdict, event.id, "reservation_expired", short)
            else:
                order.expired = False
                self._move_to_required(order)
                self._deduct(order, verdict, event.id)
        else:
            reasons = {"rejected": "order_rejected", "expired": "reservation_expired"}
            self._refuse_payment(order, verdict, event.id, reasons.get(order.status, "order_cancelled"), [])
        return self._judge_waiting_refunds(order, verdict)

    @staticmethod
    def _settle_early_cancellation(order: OrderFacts, verdict: Verdict) -> None:
        """A cancellation that a payment met has been published as the reason of its shortfall: it no longer waits."""
        verdict.resolved += [(event.id, "applied", None) for event in order.waiting if _is_whole_cancellation(event)]
        order.waiting = [event for event in order.waiting if not _is_whole_cancellation(event)]
        order.cancelled = True

    def _paid_again(self, order: OrderFacts, event: Event) -> Outcome:
        """A second payment is money for units that are not delivered twice: those that the customer keeps."""
        order.payments.add(event.data["payment_id"])
        kept = {} if order.cancelled and not order.rejected else order.remaining()
        short = [Short(p, n, self._available(p), "already_paid") for p, n in kept.items() if n]
        return _about_order("shortfall", order, event.id, {}, "already_paid", short)

    def _refuse_payment(self, order: OrderFacts, verdict: Verdict, cause: str, reason: str, short: list[Short]) -> None:
        short = short or [Short(p, n, self._available(p), reason) for p, n in order.remaining().items() if n]
        verdict.disposition, verdict.reason = "refused", reason
        verdict.outcomes.append(_about_order("shortfall", order, cause, {}, reason, short))

    def _deduct(self, order: OrderFacts, verdict: Verdict, cause: str) -> None:
        order.deducted = True
        self._move_to_required(order)
        verdict.outcomes.append(_about_order("deducted", order, cause, order.remaining()))

    def _cancelled(self, event: Event) -> Verdict:
        order = self._order(event)
        if event.lines is not None:
            return self._cancelled_lines(order, event)
        if order.status in {"released", "restocked"} or _is_cancelled_early(order):
            return Verdict("duplicate")
        if order.status == "pending":
            order.waiting.append(event)
            return Verdict("parked")
        status, left = order.status, order.remaining()
        order.cancelled = True
        self._move_to_required(order)
        kind = "restocked" if status == "deducted" else "released"
        lines = left if status in {"deducted", "reserved"} else {}
        return Verdict("applied", None, [_about_order(kind, order, event.id, lines)])

    def _cancelled_lines(self, order: OrderFacts, event: Event) -> Verdict:
        lines = event.lines or {}
        if (again := _repeat(order, event)) is not None:
            return Verdict(again)
        if order.status in {"released", "restocked"}:
            return Verdict("duplicate")
        if order.status == "pending":
            order.waiting.append(event)
            return Verdict("parked")
        order.judged[_identity(event)] = event
        if any(n > order.cancellable().get(p, 0) for p, n in lines.items()):
            return Verdict("refused", "cancellation_exceeds_order")
        kind = "restocked" if order.status == "deducted" else "released"
        placed = dict(order.placed)
        self._cancel_units(order, event)
        self._move_to_required(order)
        moved = {p: sum(placed.get(p, (0, 0))) - sum(order.placed.get(p, (0, 0))) for p in lines}
        return Verdict("applied", None, [_about_order(kind, order, event.id, moved)])

    @staticmethod
    def _cancel_units(order: OrderFacts, event: Event) -> None:
        order.judged[_identity(event)] = event
        order.cancelled_lines.update(event.lines or {})

    def _refunded(self, event: Event) -> Verdict:
        order = self._order(event)
        if (again := _repeat(order, event)) is not None:
            return Verdict(again)
        if not event.lines:
            order.judged[_identity(event)] = event
            return Verdict("applied")
        if order.status == "pending" or not (order.paid or order.rejected):
            order.waiting.append(event)
            return Verdict("parked")
        verdict = Verdict("applied")
        verdict.reason = self._apply_refund(order, event, verdict)
        verdict.disposition = "refused" if verdict.reason else "applied"
        return verdict

    def _judge_waiting_refunds(self, order: OrderFacts, verdict: Verdict) -> Verdict:
        if order.requested is not None and (order.paid or order.rejected):
            for event in order.waiting:
                if event.topic == "payment.succeeded":
                    verdict.outcomes.append(self._paid_again(order, event))
                    verdict.resolved.append((event.id, "refused", "already_paid"))
                    continue
                reason = self._apply_refund(order, event, verdict)
                verdict.resolved.append((event.id, "refused" if reason else "applied", reason))
            order.waiting = []
        return verdict

    def _apply_refund(self, order: OrderFacts, event: Event, verdict: Verdict) -> str | None:
        """Apply a refund to an order that is created and paid; returns the reason if it is refused."""
        order.judged[_identity(event)] = event
        lines, restock = event.lines or {}, event.data.get("restock", True)
        if order.rejected:
            return "order_rejected"
        if order.status == "expired":
            return "reservation_expired"
        # Whatever comes back after the whole order was cancelled is among its units.
        returned = event.data.get("returned", False) and order.status == "deducted"
        room = order.remaining() if returned else order.refundable()
        if any(n > room.get(p, 0) for p, n in lines.items()):
            return "refund_exceeds_deducted"
        counters = [order.returned if returned else order.refunded] + [order.not_restocked] * (not restock)
        for counter in counters:
            counter.update(lines)
        gone = {p: order.required()[p][1] - order.placed.get(p, (0, 0))[1] for p in lines}
        taken = {p: n for p, n in gone.items() if n > 0}
        if taken and not self.is_enough(taken):
            for counter in counters:
                counter.subtract(lines)
            return "insufficient_stock"
        self._move_to_required(order)
        back = {p: -n for p, n in gone.items() if n < 0}
        if back or taken:
            verdict.outcomes.append(_about_order("restocked" if back else "deducted", order, event.id, back or taken))
        return None

    # --- stock -----------------------------------------------------------------------------------

    def _order(self, event: Event) -> OrderFacts:
        order_id = event.data["order_id"]
        return self.orders.setdefault(order_id, OrderFacts(order_id))

    def _available(self, product_id: str) -> int:
        return self.products[product_id].available if product_id in self.products else 0

    def _own_hold(self, cart_id: str | None, at: datetime) -> Lines:
        """Return the hold that the order takes over from its cart: none if the cart is newer than the order."""
        cart = None if cart_id is None else self.carts.get(cart_id)
        return cart.held if cart is not None and cart.as_of is not None and cart.as_of <= at else {}

    def _shortages(self, needed: Lines, own: Lines) -> list[Short]:
        short: list[Short] = []
        for product_id, units in needed.items():
            there = self._available(product_id) + own.get(product_id, 0)
            if units and product_id not in self.products:
                short.append(Short(product_id, units, 0, "unknown_product"))
            elif units and not self.is_enough({product_id: units - own.get(product_id, 0)}):
                short.append(Short(product_id, units, there, "insufficient_stock"))
        return _unknown_first(short)

    def _move_to_required(self, order: OrderFacts) -> None:
        """Move the order's units from `placed` to what its facts require."""
        for product_id, (held, gone) in order.required().items():
            was_held, was_gone = order.placed.get(product_id, (0, 0))
            order.placed[product_id] = (held, gone)
            leaves, returns = max(0, gone - was_gone), max(0, was_gone - gone)
            from_hold = min(leaves, max(0, was_held - held))
            self._write(product_id, "OUT", from_hold, -1, -1)
            self._write(product_id, "OUT", leaves - from_hold, -1, 0)
            self._write(product_id, "IN", returns, 1, 0)
            self._write(product_id, "RESERVE", held - was_held, 0, 1)
            self._write(product_id, "RELEASE", was_held - from_hold - held, 0, -1)

    def _write(self, product_id: str, kind: str, quantity: int, on_hand: int, reserved: int) -> None:
        """Move `quantity` units, none if it is not positive, and add them to the ledger's sums."""
        if quantity <= 0:
            return
        product = self.products[product_id]
        product.on_hand += on_hand * quantity
        product.reserved += reserved * quantity
        product.ledger[kind] += on_hand * quantity if kind == "ADJUST" else quantity
        product.entries += 1
        self._touched[product_id] = None


def status_of(available: int, threshold: int) -> str:
    """Return the stock status: `out` when nothing is available, `low` at or below the threshold, else `ok`."""
    if available <= 0:
        return "out"
    return "low" if available <= threshold else "ok"


def is_edge(reported: str, now: str) -> bool:
    """Say whether the status is an edge: worse than any reported since the last recovery, or the recovery itself."""
    return now != reported and (now == "ok" or WORST.index(now) > WORST.index(reported))


def _is_stale(cart: Cart, at: datetime, version: int | None) -> bool:
    """Say whether the cart has applied something newer than a snapshot from `at` with `version`."""
    if cart.converted_at is not None and at <= cart.converted_at:
        return True
    if cart.version is not None and version is not None:
        return version <= cart.version
    return cart.as_of is not None and at < cart.as_of


def _identity(event: Event) -> object:
    """Return what identifies a refund or a partial cancellation to the shop."""
    if event.topic == "payment.refunded":
        return ("refund", event.data["refund_id"])
    return ("cancellation", event.data.get("cancellation_id") or event.identity)


def _repeat(order: OrderFacts, event: Event) -> str | None:
    """Say whether a refund or partial cancellation was known before, with the same content or with another."""
    known = {
        _identity(waits): waits for waits in order.waiting if waits.topic != "payment.succeeded" and waits.lines
    } | order.judged
    before = known.get(_identity(event))
    if before is None:
        return None
    said = [(e.lines or {}, e.data.get("restock", True), e.data.get("returned", False)) for e in (before, event)]
    return "duplicate" if said[0] == said[1] else "conflict"


def _is_cancelled_early(order: OrderFacts) -> bool:
    return order.status == "pending" and (order.cancelled or any(map(_is_whole_cancellation, order.waiting)))


def _is_whole_cancellation(event: Event) -> bool:
    return event.topic == "order.cancelled" and event.lines is None


def _unknown_first(short: list[Short]) -> list[Short]:
    return sorted(short, key=lambda line: line.reason != "unknown_product")


def _short_of_stock(short: list[Short]) -> set[str]:
    return {line.product_id for line in short if line.reason == "insufficient_stock"}


def _sorted(lines: Lines) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((p, n) for p, n in lines.items() if n))


def _about_order(
    kind: str, order: OrderFacts, cause: str, lines: Lines, reason: str | None = None, short: list[Short] | None = None
) -> Outcome:
    return Outcome(kind, ("ORDER", order.order_id), cause, _sorted(lines), reason, tuple(short or ()))
