"""Products: created once, adjusted by operators, judged against their thresholds."""

from typing import assert_never

from domain.commands import AdjustMany, AdjustStock, CreateProduct
from domain.model import (
    Cause,
    Decision,
    Disposition,
    Operation,
    Policy,
    Product,
    Reason,
    ReferenceType,
    State,
    StockStatus,
)
from domain.movements import Attribution, Movements


def create_product(state: State, command: CreateProduct, policy: Policy) -> Decision:
    """Create a product with its initial stock; a repeat is a duplicate, whatever it says.

    A product starts as `ok`, so one created at or below its threshold has an edge like any other.
    """
    if command.product_id in state.products:
        return Decision(Disposition.DUPLICATE)
    threshold = policy.default_threshold if command.threshold is None else command.threshold
    created = Product(command.product_id, 0, 0, threshold, StockStatus.OK, 1, 0)
    moves = Movements({})
    moves.replace(created)
    if command.initial_quantity:
        attribution = Attribution(command.cause, ReferenceType.IMPORT, command.product_id, operator=command.operator)
        moves.receive({command.product_id: command.initial_quantity}, attribution)
    return _conclude(moves, command.cause)


def adjust_stock(state: State, command: AdjustStock, policy: Policy) -> Decision:
    """Correct the stock on hand, the threshold, or both; stock on hand below what is reserved is refused."""
    product = state.products.get(command.product_id)
    if product is None:
        if not command.create or command.operation is Operation.SUBTRACT:
            return Decision(Disposition.REFUSED, Reason.UNKNOWN_PRODUCT)
        if command.expected_version is not None:
            return Decision(Disposition.REFUSED, Reason.STALE_VERSION, "the product does not exist")
        return _create_adjusted(command, policy)
    if command.expected_version is not None and command.expected_version != product.version:
        return Decision(
            Disposition.REFUSED,
            Reason.STALE_VERSION,
            f"expected version {command.expected_version}, found {product.version}",
        )
    change = _change(product, command)
    if product.on_hand + change < product.reserved:
        return Decision(
            Disposition.REFUSED,
            Reason.BELOW_RESERVED,
            f"{product.on_hand + change} on hand would be less than {product.reserved} reserved",
        )
    moves = Movements(state.products)
    if change:
        attribution = Attribution(
            command.cause, command.reference_type, command.cause.event_id, command.reason, command.operator
        )
        moves.adjust(product.product_id, change, attribution)
    if command.threshold is not None and command.threshold != product.threshold:
        moved = moves.touched.get(product.product_id)
        base = product._replace(version=product.version + 1) if moved is None else moved
        moves.replace(base._replace(threshold=command.threshold))
    return _conclude(moves, command.cause)


def adjust_many(state: State, command: AdjustMany, policy: Policy) -> Decision:
    """Apply adjustments in order, each on what those before it left.

    Every adjustment has a cause of its own, so two edges of one product are two events.
    """
    products = dict(state.products)
    changed: dict[str, Product] = {}
    parts: list[Decision] = []
    for adjustment in command.adjustments:
        part = adjust_stock(State(products, {}, {}), adjustment, policy)
        products.update(part.products)
        changed.update(part.products)
        parts.append(part)
    refused = next((part for part in parts if part.disposition is Disposition.REFUSED), None)
    if refused is not None and command.all_or_nothing:
        return Decision(Disposition.REFUSED, Reason.ADJUSTMENT_REFUSED, parts=tuple(parts))
    return Decision(
        Disposition.APPLIED,
        products=changed,
        entries=tuple(entry for part in parts for entry in part.entries),
        outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
        parts=tuple(parts),
    )


def _create_adjusted(command: AdjustStock, policy: Policy) -> Decision:
    """Create the product that an adjustment is for, with the adjusted stock as its first entry."""
    threshold = policy.default_threshold if command.threshold is None else command.threshold
    moves = Movements({})
    moves.replace(Product(command.product_id, 0, 0, threshold, StockStatus.OK, 1, 0))
    if command.quantity:
        attribution = Attribution(
            command.cause, command.reference_type, command.cause.event_id, command.reason, command.operator
        )
        moves.adjust(command.product_id, command.quantity, attribution)
    return _conclude(moves, command.cause)


def _change(product: Product, command: AdjustStock) -> int:
    """Return the change of the stock on hand that the adjustment asks for."""
    match command.operation:
        case None:
            return 0
        case Operation.ADD:
            return command.quantity
        case Operation.SUBTRACT:
            return -command.quantity
        case Operation.SET:
            return command.quantity - product.on_hand
        case _:
            assert_never(command.operation)


def _conclude(moves: Movements, cause: Cause) -> Decision:
    alerts = moves.close(cause)
    return Decision(
        Disposition.APPLIED,
        products=moves.touched,
        entries=tuple(moves.entries),
        outcomes=tuple(alerts),
    )
