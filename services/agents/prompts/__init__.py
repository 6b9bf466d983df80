"""The prompts, each in a file of its own with its version in the name.

A prompt that is changed gets a new version, so that an answer can be traced to its wording.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

SUFFIX = ".md"
_FILE = re.compile(r"(?P<name>[a-z][a-z0-9_-]{0,63})_v(?P<version>[1-9][0-9]{0,5})\.md")


class BadPrompts(Exception):
    """A folder of prompts cannot be used; the message says what to change in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Instructions for a model."""

    name: str
    version: int
    text: str
    origin: str = ""
    """Whose it is; empty for those of this package."""

    @property
    def label(self) -> str:
        """What results say of the instructions they were made with."""
        label = f"{self.name}_v{self.version}"
        return f"{self.origin}/{label}" if self.origin else label


def load_prompt(name: str, version: int) -> Prompt:
    """Read a prompt of this package; FileNotFoundError if there is none."""
    text = files(__name__).joinpath(f"{name}_v{version}{SUFFIX}").read_text(encoding="utf-8")
    return Prompt(name=name, version=version, text=text.strip())


def prompts_in(origin: str, folder: Traversable) -> Mapping[str, Prompt]:
    """Read the newest version of each prompt in a folder of files `<name>_v<version>.md`.

    Raises BadPrompts naming the file that is none.
    """
    newest: dict[str, Prompt] = {}
    try:
        for file in folder.iterdir():
            if not file.name.endswith(SUFFIX) or file.name.startswith("."):
                continue
            prompt = _read(origin, file)
            known = newest.get(prompt.name)
            if known is None or known.version < prompt.version:
                newest[prompt.name] = prompt
    except (OSError, UnicodeDecodeError) as error:
        raise BadPrompts(f"cannot be read: {error}") from error
    if not newest:
        raise BadPrompts(f"there is no file <name>_v<version>{SUFFIX} in it")
    return newest


def _read(origin: str, file: Traversable) -> Prompt:
    if (named := _FILE.fullmatch(file.name)) is None:
        raise BadPrompts(f"{file.name}: rename it to <name>_v<version>{SUFFIX}, as direct_v1.md")
    if not (text := file.read_text(encoding="utf-8").strip()):
        raise BadPrompts(f"{file.name}: it is empty")
    return Prompt(name=named["name"], version=int(named["version"]), text=text, origin=origin)
