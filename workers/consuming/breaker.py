"""The flood breaker: pauses consumption before a bad deployment turns a whole topic into dead letters."""

from collections import deque
from collections.abc import Sequence


class FloodBreaker:
    """Limits dead letters: how many in a row on one topic, and their share of the last `window` records of all topics.

    Rows are counted per topic, because the good records of other topics would hide that one topic has none left.
    """

    def __init__(self, consecutive: int, ratio: float, window: int) -> None:
        self._consecutive = consecutive
        self._ratio = ratio
        self._last: deque[bool] = deque(maxlen=window)
        self._window = window
        self._runs: dict[str, int] = {}

    def admit(self, records: Sequence[tuple[str, bool]]) -> str | None:
        """Return None and count the batch, or return why it must not be applied.

        `records` are topics, each with whether the record is a dead letter, in the batch's order. A batch that is not
        admitted is not counted, so it can be offered again.
        """
        runs = dict(self._runs)
        for topic, is_bad in records:
            if not is_bad:
                runs[topic] = 0
                continue
            runs[topic] = run = runs.get(topic, 0) + 1
            if run >= self._consecutive:
                return f"{run} dead letters in a row on {topic} (limit {self._consecutive})"
        last = deque(self._last, maxlen=self._window)
        last.extend(is_bad for _, is_bad in records)
        share = sum(last) / self._window
        if len(last) == self._window and share > self._ratio:
            return f"{share:.0%} dead letters among the last {self._window} records (limit {self._ratio:.0%})"
        self._last, self._runs = last, runs
        return None
