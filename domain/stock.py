"""Products: made known once, adjusted by people, judged against their thresholds."""

from domain.commands import AdjustStock, CreateProduct
from domain.model import (
    Decision,
    Disposition,
    EntryType,
    Operation,
    Policy,
    Product,
    Reason,
    ReferenceType,
    State,
    StockStatus,
)
from domain.movements import Movements


def create_product(state: State, command: CreateProduct, policy: Policy) -> Decision:
    """Make a product known with its first stock; a repeat is a duplicate.

    A product is born `ok`, so one born at or below its threshold tells its edge like any other.
    """
    if command.product_id in state.products:
        return Decision(Disposition.DUPLICATE)
    threshold = policy.default_threshold if command.threshold is None else command.threshold
    born = Product(command.product_id, 0, 0, threshold, StockStatus.OK, 1, 0)
    moves = Movements({}, command.cause, ReferenceType.IMPORT, command.product_id)
    moves.replace(born)
    if command.initial_quantity:
        moves.move({born.product_id: command.initial_quantity}, EntryType.IN, 1, 0, command.operator)
    return _conclude(moves)


def adjust_stock(state: State, command: AdjustStock, _policy: Policy) -> Decision:
    """Correct the stock on hand or the threshold; never below what is reserved."""
    product = state.products.get(command.product_id)
    if product is None:
        return Decision(Disposition.REFUSED, Reason.UNKNOWN_PRODUCT)
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
            f"{product.on_hand + change} on hand would be less than the {product.reserved} reserved",
        )
    moves = Movements(
        {product.product_id: product},
        command.cause,
        command.reference_type,
        command.cause.event_id,
        command.reason,
    )
    if change:
        sign = 1 if change > 0 else -1
        moves.move({product.product_id: abs(change)}, EntryType.ADJUST, sign, 0, command.operator)
    if command.threshold is not None and command.threshold != product.threshold:
        moved = moves.touched.get(product.product_id)
        base = product._replace(version=product.version + 1) if moved is None else moved
        moves.replace(base._replace(threshold=command.threshold))
    return _conclude(moves)


def _change(product: Product, command: AdjustStock) -> int:
    match command.operation:
        case None:
            return 0
        case Operation.ADD:
            return command.quantity
        case Operation.SUBTRACT:
            return -command.quantity
        case Operation.SET:
            return command.quantity - product.on_hand


def _conclude(moves: Movements) -> Decision:
    alerts = moves.close()
    return Decision(
        Disposition.APPLIED,
        products=moves.touched,
        entries=tuple(moves.entries),
        outcomes=tuple(alerts),
    )
