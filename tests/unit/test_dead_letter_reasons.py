"""The dead letter reasons stand in three places that cannot import each other; this holds them together."""

import re
from typing import get_args

from schemas.errors import ViolationReason
from schemas.outgoing import DEAD_LETTER_REASONS
from storage.dead_letters import DeadLetterReason
from storage.tables import dead_letters


def test_the_contract_the_code_and_the_table_have_the_same_reasons() -> None:
    """In the same order in contract and code; the table's check constraint takes no other."""
    (check,) = (str(c.sqltext) for c in dead_letters.constraints if c.name == "ck_dead_letters_reason")  # type: ignore[attr-defined] # a CHECK
    assert [*DeadLetterReason] == [*DEAD_LETTER_REASONS]
    assert set(DeadLetterReason) == set(re.findall(r"'(\w+)'", check))


def test_a_violation_of_a_contract_has_one_of_the_reasons() -> None:
    """What a record did wrong is why it is a dead letter."""
    assert set(get_args(ViolationReason)) < set(DeadLetterReason)
