"""How much a model thinks before it answers."""

from typing import Literal, TypeAlias

Effort: TypeAlias = Literal["", "low", "medium", "high", "xhigh", "max"]
"""Empty leaves it to the model."""
