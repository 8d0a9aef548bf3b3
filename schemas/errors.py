"""What is wrong with a record, in words a person can act on."""

from typing import Literal

ViolationReason = Literal["decode_error", "schema_invalid", "unknown_type"]


class ContractViolation(Exception):  # noqa: N818 - it names what the record did, not a fault of ours
    """The record does not keep its topic's contract.

    `reason` is one of the dead letter reasons. `message` is one printable line that PostgreSQL
    and a Kafka header can hold. The identity fields are filled as far as the record told them,
    and are unchecked beyond being storable.
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
