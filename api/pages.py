"""Cursors: where the next page of a list begins, opaque to the client and sealed against changes.

A cursor is the last row's key and a seal over it, the list and its filters. The key of the seal is made by the
migration and kept in the database, so every process accepts the cursors of every other.
"""

import base64
import binascii
import hmac
from typing import Final

import orjson

from api.problems import ProblemError

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 500
MAX_CURSOR_LENGTH: Final = 1000
_SEAL_BYTES: Final = 16


class Cursors:
    """Makes and reads cursors."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, listing: str, position: str | int, filters: object = None) -> str:
        """Return the cursor of the page that follows `position` in a listing."""
        payload = orjson.dumps(position)
        return base64.urlsafe_b64encode(self._seal(listing, payload, filters) + payload).rstrip(b"=").decode()

    def read(self, listing: str, cursor: str, filters: object = None) -> str | int:
        """Return the position of a cursor of this listing with these filters; raises ProblemError for any other."""
        try:
            sealed = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            sealed = b""
        # One spelling only: the unused bits of base64's last character would pass for any value.
        if base64.urlsafe_b64encode(sealed).rstrip(b"=").decode() != cursor:
            sealed = b""
        seal, payload = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        if not payload or not hmac.compare_digest(seal, self._seal(listing, payload, filters)):
            raise ProblemError(
                "invalid_cursor", "Please start at the first page: a cursor belongs to one list with its filters."
            )
        position: str | int = orjson.loads(payload)
        return position

    def _seal(self, listing: str, payload: bytes, filters: object) -> bytes:
        sealed = orjson.dumps([listing, filters]) + b"\0" + payload
        return hmac.digest(self._key, sealed, "sha256")[:_SEAL_BYTES]
