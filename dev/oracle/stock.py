"""The stock: every movement goes through `Stock.move`, and every edge comes out of `Stock.close`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dev.oracle.verdicts import Edge, Lines, Short, Verdict, unknown_first

BEST_TO_WORST = ("ok", "low", "out")


@dataclass
class Product:
    """One product: its stock, the worst status reported since it was last ok, and its ledger's sums by type.

    `was_available` is the number of units available after the previous event; None until the product's creation ends.
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
        """Copy field by field: the search through histories copies often, and the generic copy is ten times slower."""
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


class Stock:
    """The stock of all products.

    Where given, `has_stock` decides in place of the stock whether an order can be served: `dev.oracle.order_check`
    tries both answers.
    """

    def __init__(self, has_stock: Callable[[Lines], bool] | None = None) -> None:
        self.products: dict[str, Product] = {}
        self._has_stock = has_stock
        self._touched: dict[str, None] = {}

    def create(self, product_id: str, threshold: int, quantity: int) -> None:
        """Add a product with its first units."""
        self.products[product_id] = Product(threshold=threshold, version=0)
        self._touched[product_id] = None
        self.move(product_id, "IN", quantity, 1, 0)

    def set_threshold(self, product_id: str, threshold: int) -> None:
        """Set a product's threshold; the edge that this causes is found by `close`."""
        if threshold != self.products[product_id].threshold:
            self.products[product_id].threshold = threshold
            self._touched[product_id] = None

    def move(self, product_id: str, kind: str, quantity: int, on_hand: int, reserved: int) -> None:
        """Move `quantity` units and add them to the ledger's sums; a quantity below one does nothing.

        `on_hand` and `reserved` are the direction of the movement: 1, 0 or -1.
        """
        if quantity <= 0:
            return
        product = self.products[product_id]
        product.on_hand += on_hand * quantity
        product.reserved += reserved * quantity
        product.ledger[kind] += on_hand * quantity if kind == "ADJUST" else quantity
        product.entries += 1
        self._touched[product_id] = None

    def available(self, product_id: str) -> int:
        """Return the units of a product that can still be promised; none of an unknown product."""
        return self.products[product_id].available if product_id in self.products else 0

    def is_enough(self, needed: Lines) -> bool:
        """Say whether every product is known and has that many units available."""
        if self._has_stock is not None:
            return self._has_stock(needed)
        return all(p in self.products and self.products[p].available >= n for p, n in needed.items())

    def shortages(self, needed: Lines, own: Lines) -> list[Short]:
        """Return the lines that cannot be served in full, where `own` is a hold that serves them as well."""
        short: list[Short] = []
        for product_id, units in needed.items():
            there = self.available(product_id) + own.get(product_id, 0)
            if units and product_id not in self.products:
                short.append(Short(product_id, units, 0, "unknown_product"))
            elif units and not self.is_enough({product_id: units - own.get(product_id, 0)}):
                short.append(Short(product_id, units, there, "insufficient_stock"))
        return unknown_first(short)

    def close(self, verdict: Verdict, cause: str) -> Verdict:
        """End an event: add the edges and returns to stock of the products it touched to its verdict."""
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


def status_of(available: int, threshold: int) -> str:
    """Return the stock status: `out` when nothing is available, `low` at or below the threshold, else `ok`."""
    if available <= 0:
        return "out"
    return "low" if available <= threshold else "ok"


def is_edge(reported: str, now: str) -> bool:
    """Say whether the status is an edge: worse than any reported since the last recovery, or the recovery itself."""
    return now != reported and (now == "ok" or BEST_TO_WORST.index(now) > BEST_TO_WORST.index(reported))
