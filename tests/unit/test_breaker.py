"""The flood breaker: when a batch must not be applied, and that a refused batch is not counted."""

from workers.consuming.breaker import FloodBreaker

BAD, GOOD = [("orders", True)], [("orders", False)]


def test_dead_letters_in_a_row_trip_it_at_the_limit() -> None:
    """One fewer than the limit passes; the limit does not."""
    assert FloodBreaker(5, 1.0, 100).admit(BAD * 4) is None
    assert "5 dead letters in a row on orders (limit 5)" == FloodBreaker(5, 1.0, 100).admit(BAD * 5)


def test_a_row_continues_over_batches() -> None:
    """The next batch goes on counting where the last one ended."""
    breaker = FloodBreaker(5, 1.0, 100)
    assert breaker.admit(GOOD + BAD * 3) is None
    assert breaker.admit(BAD * 2 + GOOD) is not None


def test_a_good_record_ends_a_row() -> None:
    """Good records between dead letters start the count again, within a batch and over batches."""
    breaker = FloodBreaker(3, 1.0, 100)
    for _ in range(20):
        assert breaker.admit(BAD * 2 + GOOD + BAD + GOOD) is None


def test_good_records_of_other_topics_do_not_end_a_row() -> None:
    """One producer's bad deployment shows among six good ones; dead letters of two topics are not one row."""
    other_good, other_bad = [("carts", False)], [("carts", True)]
    breaker = FloodBreaker(5, 1.0, 100)
    assert breaker.admit((BAD + other_good * 6) * 4) is None
    assert "5 dead letters in a row on orders (limit 5)" == breaker.admit(other_good * 6 + BAD)
    assert FloodBreaker(5, 1.0, 100).admit((BAD + other_bad) * 4) is None


def test_a_row_in_the_middle_of_a_batch_counts() -> None:
    """A batch is refused for a row within it, also where it ends with good records."""
    assert FloodBreaker(3, 1.0, 100).admit(GOOD + BAD * 3 + GOOD * 5) is not None


def test_a_batch_that_is_not_admitted_is_not_counted() -> None:
    """It can be offered again, and a smaller batch is judged by what was admitted before it."""
    breaker = FloodBreaker(5, 1.0, 100)
    assert breaker.admit(BAD * 3) is None
    assert breaker.admit(BAD * 2) is not None
    assert breaker.admit(BAD) is None
    assert breaker.admit(GOOD + BAD * 4) is None


def test_the_share_is_taken_over_a_full_window() -> None:
    """More than the share trips it; exactly the share does not, nor do fewer records than the window has."""
    young = FloodBreaker(1000, 0.5, 10)
    assert young.admit(BAD * 9) is None
    assert "90% dead letters among the last 10 records (limit 50%)" == young.admit(GOOD)
    even = FloodBreaker(1000, 0.5, 10)
    assert even.admit((BAD + GOOD) * 5) is None
    assert even.admit(BAD + BAD) is not None


def test_old_records_leave_the_window() -> None:
    """Dead letters before the last `window` records do not count."""
    breaker = FloodBreaker(1000, 0.5, 10)
    assert breaker.admit(BAD * 5 + GOOD * 5) is None
    assert breaker.admit(GOOD * 5) is None
    assert breaker.admit(BAD * 5) is None


def test_the_last_records_of_a_large_batch_count() -> None:
    """Of a batch larger than the window, its end is judged."""
    assert FloodBreaker(1000, 0.5, 10).admit(BAD * 50 + GOOD * 10) is None
    assert FloodBreaker(1000, 0.5, 10).admit(GOOD * 50 + BAD * 10) is not None
