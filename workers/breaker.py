"""The flood breaker: stops the consumer before a bad deployment drains a topic into its dead letters."""

from collections import deque
from collections.abc import Sequence


class FloodBreaker:
    """Counts dead letters among the records, in a row and as a share of the last `window`."""

    def __init__(self, consecutive: int, ratio: float, window: int) -> None:
        self._consecutive = consecutive
        self._ratio = ratio
        self._last: deque[bool] = deque(maxlen=window)
        self._window = window
        self._run = 0

    def admit(self, bad: Sequence[bool]) -> str | None:
        """Count a batch, in order, true for a dead letter; or say why it must not be applied.

        A batch that is not admitted is not counted, so it can be offered again.
        """
        run, worst = self._run, 0
        for is_bad in bad:
            if is_bad:
                run += 1
                worst = max(worst, run)
            else:
                run = 0
        if worst >= self._consecutive:
            return f"{worst} dead letters in a row (limit {self._consecutive})"
        last = deque(self._last, maxlen=self._window)
        last.extend(bad)
        share = sum(last) / self._window
        if len(last) == self._window and share > self._ratio:
            return f"{share:.0%} dead letters among the last {self._window} records (limit {self._ratio:.0%})"
        self._last, self._run = last, run
        return None
