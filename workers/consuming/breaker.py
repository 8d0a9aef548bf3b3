"""The flood breaker: stops the consumer before a bad deployment drains a topic into its dead letters."""

from collections import deque
from collections.abc import Sequence


class FloodBreaker:
    """Counts dead letters among the records: in a row on one topic, and as a share of the last `window`.

    Topics are read side by side: the others' good records must not hide that one has none left.
    """

    def __init__(self, consecutive: int, ratio: float, window: int) -> None:
        self._consecutive = consecutive
        self._ratio = ratio
        self._last: deque[bool] = deque(maxlen=window)
        self._window = window
        self._runs: dict[str, int] = {}

    def admit(self, records: Sequence[tuple[str, bool]]) -> str | None:
        """Count a batch, in order: topics, and true for a dead letter; or say why it must not be applied.

        A batch that is not admitted is not counted, so it can be offered again.
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
