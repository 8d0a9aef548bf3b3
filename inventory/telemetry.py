"""Traces, where OpenTelemetry's own variables name an endpoint; without one nothing is loaded or measured."""

import os

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def configure_traces(version: str) -> bool:
    """Send the spans of `workers.consuming.traces` to the OTLP endpoint of the environment; says whether there is one.

    OpenTelemetry's variables (service name, headers, sampling) mean what its documentation says.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    from opentelemetry import trace  # noqa: PLC0415 - a tenth of a second that most runs save
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    name = os.environ.get("OTEL_SERVICE_NAME", "inventory-worker")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name, SERVICE_VERSION: version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
