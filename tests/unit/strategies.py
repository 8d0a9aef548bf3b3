"""What random histories of a small shop are drawn from."""

from typing import Any

from hypothesis import strategies as st

PRODUCTS = ("a", "b", "c")
ORDERS = ("o1", "o2")
CARTS = ("c1", "c2")

lines = st.dictionaries(st.sampled_from((*PRODUCTS, "unheard-of")), st.integers(1, 4), min_size=1, max_size=3)
known_lines = st.dictionaries(st.sampled_from(PRODUCTS), st.integers(1, 4), min_size=1, max_size=3)
orders = st.sampled_from(ORDERS)
carts = st.sampled_from(CARTS)
minutes = st.integers(0, 60)


def items(asked: dict[str, int]) -> list[dict[str, Any]]:
    """Return lines as events carry them."""
    return [{"product_id": product_id, "quantity": quantity} for product_id, quantity in asked.items()]
