"""The lines of an event, as commands carry them."""

from collections.abc import Iterable

from schemas.incoming import Item


def sum_lines(items: Iterable[Item]) -> dict[str, int]:
    """Return units by product; lines that repeat a product are summed."""
    lines: dict[str, int] = {}
    for item in items:
        lines[item.product_id] = lines.get(item.product_id, 0) + item.quantity
    return lines
