"""What an audit checks: the names of the checks, the rule that each holds, and what each counts."""

from collections.abc import Mapping
from enum import StrEnum


class Check(StrEnum):
    """What an audit checks; the statements below name them by value."""

    STOCK = "stock"
    STATUS = "status"
    LEDGER_SEQUENCE = "ledger-sequence"
    LEDGER_CHAIN = "ledger-chain"
    LEDGER_ENTRY = "ledger-entry"
    LEDGER_STOCK = "ledger-stock"
    HOLDS = "holds"
    ORDER_LINES = "order-lines"
    ORDER_STATUS = "order-status"
    ORDER_LEDGER = "order-ledger"
    CART_STATUS = "cart-status"
    CART_LEDGER = "cart-ledger"
    PARKED = "parked"
    ALERTS = "alerts"


RULES: Mapping[Check, str] = {
    Check.STOCK: "0 <= reserved <= on_hand",
    Check.STATUS: "the stock status follows from available and threshold, and the last alert from the stock status",
    Check.LEDGER_SEQUENCE: "a product's entries are numbered 1, 2, 3 ... without holes",
    Check.LEDGER_CHAIN: "an entry starts from the stock that the one before it left, the first from zero",
    Check.LEDGER_ENTRY: "an entry changed the stock by what its type and quantity say",
    Check.LEDGER_STOCK: "the last entry leaves the current stock, and there are as many as the last sequence says",
    Check.HOLDS: "reserved is the sum of the holds of reserved orders and active carts",
    Check.ORDER_LINES: "the counters of a line are consistent with each other",
    Check.ORDER_STATUS: "only a reserved order holds stock, and it has a deadline",
    Check.ORDER_LEDGER: "the ledger's movements for an order add up to its lines' counters",
    Check.CART_STATUS: "only an active cart holds stock, and it has a deadline",
    Check.CART_LEDGER: "the ledger's movements for a cart add up to what it holds",
    Check.PARKED: "every waiting fact of an order has its parked event, and every parked event its waiting fact",
    Check.ALERTS: "no alert repeats the one before it, and the newest is the product's last alert status",
}
QUICK_CHECKS = (Check.STOCK, Check.STATUS, Check.LEDGER_STOCK, Check.HOLDS)

# What a check reads one by one; the keys of `COUNTS` in `storage.audit_statements`.
COUNTED_BY: Mapping[Check, str] = {
    Check.STOCK: "products",
    Check.STATUS: "products",
    Check.LEDGER_SEQUENCE: "entries",
    Check.LEDGER_CHAIN: "entries",
    Check.LEDGER_ENTRY: "entries",
    Check.LEDGER_STOCK: "products",
    Check.HOLDS: "products",
    Check.ORDER_LINES: "orders",
    Check.ORDER_STATUS: "orders",
    Check.ORDER_LEDGER: "orders",
    Check.CART_STATUS: "carts",
    Check.CART_LEDGER: "carts",
    Check.PARKED: "parked",
    Check.ALERTS: "products",
}
