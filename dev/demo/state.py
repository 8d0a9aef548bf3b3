"""The demo's current figures, from which the screen, the plain lines and the summary are made."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

RESERVATION_KINDS: Final = (
    "reserved",
    "deducted",
    "released",
    "restocked",
    "rejected",
    "expired",
    "shortfall",
    "cart_shortage",
)
DISPOSITIONS: Final = ("applied", "duplicate", "refused", "parked", "dead_lettered")
KEPT: Final = 100
LATENCIES_KEPT: Final = 100_000
RATE_WINDOW_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class StockRow:
    """A product's row in the table `inventory`."""

    product_id: str
    on_hand: int
    reserved: int
    threshold: int
    status: str

    @property
    def available(self) -> int:
        """On hand less reserved."""
        return self.on_hand - self.reserved


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as published; `severity` is low, out or recovered."""

    at: float
    severity: str
    product_id: str
    available: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as published."""

    at: float
    topic: str
    reason: str
    message: str


@dataclass(slots=True)
class DemoState:
    """The demo's figures; times are seconds since the shop opened.

    `published` counts the shop's records by kind, `requests` its requests over HTTP and `answers` what the API made of
    them; `written` counts the outgoing events and dead letters in the tables, `read` those that arrived from Kafka;
    `polls` how often the tables were read.
    """

    seed: int
    seconds: float
    opened: float = field(default_factory=time.monotonic)
    closed: bool = False
    published: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    stock: list[StockRow] = field(default_factory=list)
    peak_on_hand: dict[str, int] = field(default_factory=dict)
    handled: int = 0
    lag: int = 0
    outbox: int = 0
    written: int = 0
    read: int = 0
    polls: int = 0
    dispositions: Counter[str] = field(default_factory=Counter)
    reservations: Counter[str] = field(default_factory=Counter)
    alerts: deque[Alert] = field(default_factory=lambda: deque(maxlen=KEPT))
    alert_counts: Counter[str] = field(default_factory=Counter)
    dead_letters: deque[DeadLetter] = field(default_factory=lambda: deque(maxlen=KEPT))
    dead_letter_counts: Counter[str] = field(default_factory=Counter)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def now(self) -> float:
        """Return the seconds since the shop opened."""
        return time.monotonic() - self.opened

    def open(self) -> None:
        """Start the clock."""
        self.opened = time.monotonic()

    def is_done(self) -> bool:
        """Tell whether every record was handled, every request answered, and all outgoing events published and read."""
        return (
            self.lag == self.outbox == 0
            and self.read >= self.written
            and sum(self.dispositions.values()) == sum(self.published.values())
            and sum(self.answers.values()) == sum(self.requests.values())
        )

    def update_stock(self, stock: list[StockRow]) -> None:
        """Set the products, and remember the most that each had on hand."""
        self.stock = stock
        for row in stock:
            self.peak_on_hand[row.product_id] = max(row.on_hand, self.peak_on_hand.get(row.product_id, 1))

    def update_progress(self, next_offsets: dict[tuple[str, int], int]) -> None:
        """Set how far the worker has read, and the lag behind what the broker acknowledged."""
        self.handled = sum(next_offsets.values())
        self.lag = sum(max(end - next_offsets.get(place, 0), 0) for place, end in self.ends.items())
        now = time.monotonic()
        self._samples.append((now, self.handled))
        while len(self._samples) > 1 and now - self._samples[0][0] > RATE_WINDOW_SECONDS:
            self._samples.popleft()

    def rate(self) -> float:
        """Return events handled per second over the last two seconds."""
        if len(self._samples) < 2:  # noqa: PLR2004 - a rate needs two points
            return 0.0
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return (last - first) / max(ended - began, 0.001)

    def latency(self) -> tuple[float, float] | None:
        """Return median and 99th percentile of the seconds from publishing an order to reading its outcome."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return ordered[len(ordered) // 2], ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)]
