"""What a tool server says of its tools, as far as a model can be told it. Pure.

A model's API refuses a whole request for one wrong schema, which would fail every turn: so what is
told is built anew from the few keywords whose form is checked here.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from maieutic.tools.v1.tool_service_pb2 import Tool as ToldTool
from services.agents.ports import ModelTool

MOST_TOOLS = 32
SCHEMA_BYTES = 16 * 1024
SCHEMA_LEVELS = 8
DESCRIPTION_CHARACTERS = 2000
NOTICE_CHARACTERS = 200
BETWEEN_NAMES = "__"
"""No name of a tool of ours has it, and no name of a server ends with a part of it."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_PROPERTY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_REFUSED = ("$ref", "$dynamicRef")
_NOT_AT_THE_TOP = ("anyOf", "oneOf", "allOf")


class BadTool(Exception):
    """A tool cannot be told to a model; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTool:
    """A tool of a server."""

    name: str
    """As the server calls it."""
    told: ModelTool
    notice: str


def listed(server: str, tools: Sequence[ToldTool]) -> tuple[Sequence[ListedTool], Sequence[str]]:
    """Return the tools that a model can be told, and what is wrong with the others."""
    good, problems = dict[str, ListedTool](), list[str]()
    for tool in tools[:MOST_TOOLS]:
        try:
            one = _listed(server, tool)
        except BadTool as problem:
            problems.append(f"{tool.name[:40]!r}: {problem}")
            continue
        if good.setdefault(tool.name, one) is not one:
            problems.append(f"{tool.name!r}: it is there twice, and the first one is used")
    if len(tools) > MOST_TOOLS:
        problems.append(f"of {len(tools)} tools the first {MOST_TOOLS} are used")
    return list(good.values()), problems


def _listed(server: str, tool: ToldTool) -> ListedTool:
    if _NAME.fullmatch(tool.name) is None:
        raise BadTool("a name has letters, digits, - and _, at most 40")
    if not tool.description.strip() or len(tool.description) > DESCRIPTION_CHARACTERS:
        raise BadTool(f"a description has 1 to {DESCRIPTION_CHARACTERS} characters")
    notice = "".join(one for one in tool.notice if one.isprintable())[:NOTICE_CHARACTERS]
    told = ModelTool(
        name=f"{server}{BETWEEN_NAMES}{tool.name}",
        description=tool.description,
        schema=_told_schema(tool.input_schema),
    )
    return ListedTool(name=tool.name, told=told, notice=notice.strip() or f"Using {tool.name}")


def _told_schema(text: str) -> Mapping[str, Any]:
    if len(text.encode()) > SCHEMA_BYTES:
        raise BadTool(f"a schema has at most {SCHEMA_BYTES} bytes")
    try:
        given = json.loads(text or '{"type": "object"}', parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadTool("the schema is not valid JSON") from error
    if not isinstance(given, dict) or given.get("type") != "object":
        raise BadTool('the schema has to be an object of the type "object"')
    if any(name in given for name in _NOT_AT_THE_TOP):
        raise BadTool(f"the schema may not have {', '.join(_NOT_AT_THE_TOP)} at its top")
    told = {"properties": {}} | dict(_schema(given, SCHEMA_LEVELS))
    try:
        json.dumps(told, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise BadTool("the schema has an infinite number, or half a character") from error
    return told


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _schema(given: Any, levels: int) -> Mapping[str, Any]:
    """Return the schema with the keywords that are known, so deep and no deeper."""
    if not levels:
        raise BadTool(f"the schema is deeper than {SCHEMA_LEVELS} levels")
    if not isinstance(given, dict):
        raise BadTool("a part of the schema is no object")
    if any(name in given for name in _REFUSED):
        raise BadTool("the schema refers to another one: write it where it is used")
    return {
        name: keep(given[name], levels - 1) for name, keep in _KEYWORDS.items() if name in given
    }


def _type(given: Any, levels: int) -> Any:
    types = given if isinstance(given, list) else [given]
    if not _are_different(types) or not _TYPES.issuperset(types):
        raise BadTool("a type in the schema is unknown")
    return given


def _properties(given: Any, levels: int) -> Any:
    if not isinstance(given, dict) or not all(map(_PROPERTY.fullmatch, given)):
        raise BadTool("a property has letters, digits, _, . and -, at most 64")
    return {name: _schema(part, levels) for name, part in given.items()}


def _required(given: Any, levels: int) -> Any:
    if given != [] and not _are_different(given):
        raise BadTool("required in the schema is no list of different names")
    return given


def _enum(given: Any, levels: int) -> Any:
    scalars = (str, int, float, type(None))
    if not isinstance(given, list) or not given:
        raise BadTool("an enum in the schema is no list of values")
    if not all(isinstance(one, scalars) for one in given):
        raise BadTool("a value of an enum in the schema is neither text nor a number")
    return given


def _description(given: Any, levels: int) -> Any:
    if not isinstance(given, str):
        raise BadTool("a description in the schema is no text")
    return given


def _additional(given: Any, levels: int) -> Any:
    return given if isinstance(given, bool) else True


def _any_of(given: Any, levels: int) -> Any:
    if not isinstance(given, list) or not given:
        raise BadTool("anyOf in the schema is no list of schemas")
    return [_schema(part, levels) for part in given]


def _are_different(given: Any) -> bool:
    """Whether it is a list of different texts, at least one."""
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        return False
    return bool(given) and len(set(given)) == len(given)


_KEYWORDS: Mapping[str, Callable[[Any, int], Any]] = MappingProxyType(
    {
        "type": _type,
        "description": _description,
        "properties": _properties,
        "required": _required,
        "items": _schema,
        "enum": _enum,
        "additionalProperties": _additional,
        "anyOf": _any_of,
    }
)
