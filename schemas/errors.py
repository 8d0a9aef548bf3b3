"""The error for a record that breaks its contract."""

from typing import Literal

ViolationReason = Literal["decode_error", "schema_invalid", "unknown_type"]


class ContractViolation(Exception):  # noqa: N818 - named after what the record did; it is no fault of the program
    """The record breaks its topic's contract.

    `reason` is one of the dead letter reasons. `message` is one printable line that fits PostgreSQL and a Kafka header.
    The identity fields hold what could be read from the record; they are checked only for being storable.
    """

    def __init__(
        self,
        reason: ViolationReason,
        message: str,
        *,
        event_id: str | None = None,
        source: str | None = None,
        event_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason: ViolationReason = reason
        self.message = message
        self.event_id = event_id
        self.source = source
        self.event_type = event_type
