"""How the offline model writes code: it puts down what was settled, as text and as data.

Pure, and the same for the same request.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.agents.adapters.offline_sections import listed, named
from services.agents.ports import ModelRequest

README, DATA, MODULE = "README.md", "specifications.json", "specifications.py"

_FILES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        README: ("What was settled, what is assumed and what these files are.", ""),
        DATA: (
            "What was settled, as data.",
            'An object {"specifications": [{"category", "key", "value"}], "assumptions": [text]}.',
        ),
        MODULE: (
            "A place to begin: reads what was settled.",
            "Specification(category, key, value); specifications() and of(category) return tuples.",
        ),
    }
)
HONEST = (
    "Written by the offline model: it puts down what was settled and understands none of it. With "
    "a model that reasons, code stands here that does what the specifications ask for."
)
_MODULE = f'''"""What was settled, as Python.

{HONEST}
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Specification:
    """One thing that was settled."""

    category: str
    key: str
    value: str


def specifications() -> tuple[Specification, ...]:
    """Read all that was settled."""
    text = Path(__file__).with_name("{DATA}").read_text(encoding="utf-8")
    return tuple(Specification(**one) for one in json.loads(text)["specifications"])


def of(category: str) -> tuple[Specification, ...]:
    """Return what was settled about one category."""
    return tuple(one for one in specifications() if one.category == category)


if __name__ == "__main__":
    for found in specifications():
        print(f"{{found.category}}/{{found.key}}: {{found.value}}")
'''


def plan_of_files(request: ModelRequest) -> dict[str, Any]:
    """Return the plan that this model can carry out."""
    undecided = [
        f"Not decided: “{one['first']}” or “{one['second']}”."
        for one in listed(request, "conflicts")
        if one["severity"] != "high"  # those are always added
    ]
    return {
        "files": [
            {"path": path, "purpose": purpose, "interface": interface}
            for path, (purpose, interface) in _FILES.items()
        ],
        "assumptions": [*undecided, HONEST],
    }


def file_text(request: ModelRequest) -> str:
    """Return the text of the file that is asked for."""
    path = named(request, "file").get("path")
    if path == DATA:
        return _data(request)
    return _MODULE if path == MODULE else _readme(request)


def _data(request: ModelRequest) -> str:
    settled = [
        {name: one[name] for name in ("category", "key", "value")}
        for one in listed(request, "specifications")
    ]
    data = {"specifications": settled, "assumptions": _assumptions(request)}
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def _readme(request: ModelRequest) -> str:
    settled = [
        f"- {one['category']}/{one['key']}: {' '.join(one['value'].split())}"
        for one in listed(request, "specifications")
    ]
    files = [f"- `{one['path']}`: {one['purpose']}" for one in _plan(request).get("files", [])]
    assumed = [f"- {' '.join(one.split())}" for one in _assumptions(request)]
    _, _, wanted = request.messages[-1].text.partition("\n\n")
    quoted = [f"> {line}" for line in wanted.splitlines()]
    parts = [
        ["# What was settled", "", HONEST, "", *(settled or ["Nothing yet."])],
        ["## Asked for besides", "", *(quoted or ["Nothing."])],
        ["## Files", "", *files],
        ["## Assumed", "", *assumed],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _plan(request: ModelRequest) -> dict[str, Any]:
    return named(request, "plan")


def _assumptions(request: ModelRequest) -> list[str]:
    return list(_plan(request).get("assumptions", []))
