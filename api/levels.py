"""A product's stock as the API shows it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from storage.stock import StockLevel

STOCK_EXAMPLE: dict[str, JsonValue] = {
    "product_id": "mug-blue",
    "on_hand": 12,
    "reserved": 4,
    "available": 8,
    "low_stock_threshold": 10,
    "stock_status": "low",
    "is_low_stock": True,
    "is_out_of_stock": False,
    "version": 31,
    "updated_at": "2026-03-01T10:15:30.250000Z",
}

CURSOR_EXAMPLE: JsonValue = "3q2-7wAAAAAAAAAAAAAAACJtdWctYmx1ZSI"

StockStatus = Literal["ok", "low", "out"]


class Stock(BaseModel):
    """A product's stock, in units."""

    model_config = ConfigDict(json_schema_extra={"examples": [STOCK_EXAMPLE]})

    product_id: str = Field(description="The product.")
    on_hand: int = Field(description="What the shop has, reserved units included.")
    reserved: int = Field(description="What is promised to carts and orders.")
    available: int = Field(description="What can still be promised: on_hand less reserved.")
    low_stock_threshold: int = Field(description="The product is low when no more than this is available.")
    stock_status: StockStatus = Field(description="ok, low or out.")
    is_low_stock: bool = Field(description="Whether the product is low or out.")
    is_out_of_stock: bool = Field(description="Whether nothing is available.")
    version: int = Field(description="Grows with every change; also the ETag.")
    updated_at: datetime = Field(description="When it last changed.")


class StockPage(BaseModel):
    """One page of a list of products, in the order of their ids."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"products": [STOCK_EXAMPLE], "next_cursor": CURSOR_EXAMPLE}]}
    )

    products: list[Stock] = Field(description="The products.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


def stock_json(level: StockLevel) -> dict[str, object]:
    """Return the JSON of `Stock`."""
    return {
        "product_id": level.product_id,
        "on_hand": level.on_hand,
        "reserved": level.reserved,
        "available": level.available,
        "low_stock_threshold": level.low_stock_threshold,
        "stock_status": level.stock_status,
        "is_low_stock": level.stock_status != "ok",
        "is_out_of_stock": level.stock_status == "out",
        "version": level.version,
        "updated_at": level.updated_at,
    }


def etag(version: int) -> str:
    """Return a version as an entity tag."""
    return f'"{version}"'


def etag_matches(header: str, version: int) -> bool:
    """Say whether an If-None-Match names the version, weakly compared; `*` matches any."""
    tags = (part.strip().removeprefix("W/") for part in header.split(","))
    return any(tag in {"*", etag(version)} for tag in tags)
