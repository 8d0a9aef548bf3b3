"""Traces, if OpenTelemetry's variables name an endpoint; otherwise nothing is loaded or measured."""

import os

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def configure_traces(version: str) -> bool:
    """Send the spans of `workers.consuming.traces` to the environment's OTLP endpoint; return whether there is one.

    OpenTelemetry's own variables (service name, headers, sampling) apply.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    from opentelemetry import trace  # noqa: PLC0415 - takes 0.1 s, and most runs have no endpoint
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    name = os.environ.get("OTEL_SERVICE_NAME", "inventory-worker")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name, SERVICE_VERSION: version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
