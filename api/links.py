"""Which request can follow which answer, for the OpenAPI document: clients and fuzzers walk the API along these."""

from collections.abc import Mapping
from typing import Any, Final

_ORDER: Final = "$response.body#/order_id"
_CART: Final = "$response.body#/cart_id"
_FIRST_PRODUCT: Final = "$response.body#/products/0/product_id"
_PRODUCT: Final = "$response.body#/product_id"


def _link(operation: str, parameters: Mapping[str, str], body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    link: dict[str, Any] = {"operationId": operation, "parameters": dict(parameters)}
    return link if body is None else {**link, "requestBody": dict(body)}


_OF_ORDER: Final = {
    "look": _link("get_order", {"order_id": _ORDER}),
    "cancel": _link("cancel_order", {"order_id": _ORDER}),
    "deduct": _link("deduct", {}, {"order_id": _ORDER}),
}
_OF_CART: Final = {
    "look": _link("get_cart", {"cart_id": _CART}),
    "prolong": _link("extend_cart", {}, {"cart_id": _CART}),
    "release": _link("release_cart", {"cart_id": _CART}),
}


def _of_product(product_id: str) -> dict[str, Any]:
    return {
        "look": _link("get_product", {"product_id": product_id}),
        "watch": _link("stream", {"product_id": product_id}),
        "adjust": _link("adjust", {"product_id": product_id}),
        "threshold": _link("set_threshold", {"product_id": product_id}),
        "transactions": _link("list_transactions", {"product_id": product_id}),
    }


LINKS: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    ("reserve_order", "200"): _OF_ORDER,
    ("reserve_order", "201"): _OF_ORDER,
    ("reserve_cart", "200"): _OF_CART,
    ("list_products", "200"): _of_product(_FIRST_PRODUCT),
    ("list_low_stock", "200"): _of_product(_FIRST_PRODUCT),
    ("get_product", "200"): _of_product(_PRODUCT),
    ("adjust", "200"): _of_product(_PRODUCT),
}
"""The links of an operation's answer, by the operation's id and the answer's status."""
