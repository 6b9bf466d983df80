"""What a request says is known, as the offline model reads it. Pure."""

import json
from typing import Any

from services.agents.ports import ModelRequest


def listed(request: ModelRequest, name: str) -> list[Any]:
    """Return the list that the section of that name holds; empty if there is none."""
    found: list[Any] = _read(request, name, "[]")
    return found


def named(request: ModelRequest, name: str) -> dict[str, Any]:
    """Return the object that the section of that name holds; empty if there is none."""
    found: dict[str, Any] = _read(request, name, "{}")
    return found


def _read(request: ModelRequest, name: str, absent: str) -> Any:
    texts = (section.text for section in request.sections if section.name == name)
    return json.loads(next(texts, absent))
