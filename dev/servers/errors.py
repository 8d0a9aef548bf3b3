"""Errors of the development servers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LOG_LINES_SHOWN = 15


class ServersError(Exception):
    """A development server could not be started, reached or stopped."""


class ServerFailedError(ServersError):
    """A server ended or was not ready in time; the message includes the end of its log."""

    def __init__(self, name: str, what: str, log: "Path") -> None:
        self.name = name
        self.log = log
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        tail = "\n".join(lines[-_LOG_LINES_SHOWN:]) or "(its log is empty)"
        super().__init__(f"{name} {what}; the end of its log:\n{tail}")
