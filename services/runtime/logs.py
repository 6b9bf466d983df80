"""Logs on standard error: one JSON object a line with the trace's ids, or plain text for people.

Log messages are fixed texts with ids; what a user wrote never gets into one.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TextIO

from opentelemetry.trace import get_current_span

_STANDARD = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What is logged, and how it looks."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged."""

    form: Literal["json", "console"] = "json"
    """json for collectors, console for people."""


_LEAST = {"aiormq": logging.ERROR, "httpx": logging.WARNING, "pinecone": logging.WARNING}
_service: ContextVar[str] = ContextVar("maieutic_log_service", default="")


@contextmanager
def logging_to_stderr(options: LogOptions, *, service: str) -> Iterator[None]:
    """Send the process's logs to standard error during the block, marked with *service*.

    Logging belongs to the process: of several services in one, the first to come sets the level
    and the form, and each marks the lines of its own tasks.
    """
    token = _service.set(service)
    try:
        with _installed(options):
            yield
    finally:
        _service.reset(token)


@contextmanager
def _installed(options: LogOptions) -> Iterator[None]:
    root = logging.getLogger()
    if any(isinstance(handler, _StderrHandler) for handler in root.handlers):
        yield
        return
    handler, level = _StderrHandler(sys.stderr), root.level
    handler.setFormatter(JsonFormatter() if options.form == "json" else ConsoleFormatter())
    handler.addFilter(_not_told_twice)
    root.addHandler(handler)
    root.setLevel(options.level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _not_told_twice(record: logging.LogRecord) -> bool:
    """Leave out what libraries say of each request and lost link: ours tell it, too."""
    return record.levelno >= _LEAST.get(record.name.partition(".")[0], logging.NOTSET)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """A class of its own, to be told from a test runner's or an embedding program's handlers."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `extra=` fields become fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": _service.get(),
            "logger": record.name,
            "message": record.getMessage(),
            **_trace_ids(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """One readable line, with the time of day and the `extra=` fields at its end."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*."""
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = "".join(f" {name}={value}" for name, value in _extra(record).items())
        level, service = record.levelname.lower(), _service.get() or record.name
        line = f"{time} {level:7} {service:11} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _trace_ids() -> dict[str, str]:
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
