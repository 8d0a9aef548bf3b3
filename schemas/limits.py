"""The limits that every event keeps, whichever way it comes in: Kafka, a file or a command."""

from typing import Final

# Characters of an id: products, carts, orders, users, events, sources.
MAX_ID_LENGTH: Final = 256
# Characters of free text, such as a reason.
MAX_TEXT_LENGTH: Final = 1_000
# Lines of one event.
MAX_LINES: Final = 1_000
# Units in one line, one adjustment or one threshold.
MAX_QUANTITY: Final = 1_000_000
# Units on hand that a person may set, add or import. Sums of them stay exact in JSON readers that use doubles (2**53).
MAX_ON_HAND: Final = 10**15
# The largest bigint of PostgreSQL.
MAX_VERSION: Final = 2**63 - 1
# Bytes of one record's value.
MAX_RECORD_BYTES: Final = 1024 * 1024
# Hours that an event's time may be ahead.
MAX_AHEAD_HOURS: Final = 24
