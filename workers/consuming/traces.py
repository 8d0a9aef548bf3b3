"""One span per batch, with a link to the trace of each record that carries one.

Without a tracer provider (`inventory.telemetry` sets it) there are no spans, and no links are built.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, TraceFlags

# OpenTelemetry keeps 128 links of a span by default; building more would be wasted.
MAX_LINKS = 128


@contextmanager
def batch_span(size: int, traceparents: Iterable[str | None]) -> Iterator[Span]:
    """Trace a batch of `size` records, linked to the traces of those that have a traceparent."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield trace.INVALID_SPAN
        return
    with (
        trace.get_tracer_provider()
        .get_tracer("inventory.workers")
        .start_as_current_span(
            "inventory.batch", links=_links(traceparents), attributes={"messaging.batch.message_count": size}
        ) as span
    ):
        yield span


def _links(traceparents: Iterable[str | None]) -> list[Link]:
    links: list[Link] = []
    for traceparent in traceparents:
        if traceparent is None:
            continue
        _, trace_id, span_id, flags = traceparent.split("-")
        context = SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
        )
        links.append(Link(context))
        if len(links) == MAX_LINKS:
            break
    return links
