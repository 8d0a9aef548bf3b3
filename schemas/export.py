"""The contracts as files: one JSON Schema per event type and topic of state, and an AsyncAPI document of all topics."""

import json
from pathlib import Path
from typing import Any

from schemas.asyncapi import asyncapi_document
from schemas.json_schema import event_models, event_schema, state_schema
from schemas.topics import TOPICS_STATE


def export(directory: Path) -> list[Path]:
    """Write every contract below `directory` and return the files in order; other files stay as they are."""
    written = []
    for name, text in sorted(documents().items()):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def documents() -> dict[str, str]:
    """Return the text of every file, by its path below the directory."""
    schemas = {f"events/{type_}.json": render(event_schema(type_)) for type_ in event_models()}
    states = {f"state/{topic}.json": render(state_schema(topic)) for topic in TOPICS_STATE}
    return {"asyncapi.json": render(asyncapi_document()), **schemas, **states}


def render(document: dict[str, Any]) -> str:
    """Return a document as the exported files spell it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
