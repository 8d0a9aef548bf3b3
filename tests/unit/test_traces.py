"""Spans: one per batch, linked to the traces of its records, and none without an endpoint."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inventory.telemetry import ENDPOINTS, configure_traces
from workers.consuming import traces

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_an_endpoint_nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an OTLP endpoint no provider is set, and the batch's span records nothing."""
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert not configure_traces("1")
    with traces.batch_span(3, [TRACEPARENT]) as span:
        assert not span.is_recording()


def test_a_batch_is_one_span_with_a_link_per_traced_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of three records, one of them traced, is one span that names its size and links that trace."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    with traces.batch_span(3, [None, TRACEPARENT, None]):
        pass
    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["messaging.batch.message_count"] == 3
    assert [f"{link.context.trace_id:032x}" for link in span.links] == ["0af7651916cd43dd8448eb211c80319c"]
