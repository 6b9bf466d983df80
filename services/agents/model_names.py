"""What settings say by the names of models. Pure."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def of_model(said: Mapping[str, T], model: str) -> T | None:
    """Return what is said under the model's own name, or under its longest beginning with `*`."""
    if (own := said.get(model)) is not None:
        return own
    beginnings = [name for name in said if name.endswith("*") and model.startswith(name[:-1])]
    return said[max(beginnings, key=len)] if beginnings else None
