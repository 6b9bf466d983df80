"""The prompts, each in a file of its own with its version in the name.

A prompt that is changed gets a new version, so that an answer can be traced to its wording.
"""

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Instructions for a model."""

    name: str
    version: int
    text: str

    @property
    def label(self) -> str:
        """What results say of the instructions they were made with."""
        return f"{self.name}_v{self.version}"


def load_prompt(name: str, version: int) -> Prompt:
    """Read a prompt of this package; FileNotFoundError if there is none."""
    text = files(__name__).joinpath(f"{name}_v{version}.md").read_text(encoding="utf-8")
    return Prompt(name=name, version=version, text=text.strip())
