"""Settings: frozen dataclasses filled from the environment, in the composition roots only.

A field `listen` is read from MAIEUTIC_LISTEN; a field that is itself a dataclass adds its name:
`telemetry.endpoint` is MAIEUTIC_TELEMETRY_ENDPOINT. Any value may come from a file instead, as a
mounted secret does: MAIEUTIC_REDIS_URL_FILE names the file that holds MAIEUTIC_REDIS_URL. Lists
and mappings are written as JSON.
"""

import ast
import dataclasses
import inspect
import json
import os
import textwrap
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PREFIX = "MAIEUTIC_"
FILE_SUFFIX = "_FILE"

T = TypeVar("T")


class BadSettings(Exception):
    """The environment does not make valid settings; names each variable and what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One environment variable, as docs/configuration.md shows it."""

    name: str
    type: str
    default: str | None
    """As one would write it; None if the variable must be set."""
    help: str


def load(settings: type[T], *, prefix: str = PREFIX, environ: Mapping[str, str] | None = None) -> T:
    """Return an instance of the dataclass *settings*; raises BadSettings naming the variables."""
    leaves = {(prefix + leaf.path).upper(): leaf for leaf in _leaves(settings)}
    environ = _with_files(os.environ if environ is None else environ, leaves)
    try:
        model = _model(leaves, environ)()
    except ValidationError as error:
        raise BadSettings(_explained(error)) from None  # its own text shows the values
    return _built(settings, {leaf.path: getattr(model, _field(leaf)) for leaf in leaves.values()})


def describe(settings: type[Any], *, prefix: str = PREFIX) -> list[Variable]:
    """Return the variables of the dataclass *settings*, in its order."""
    leaves = list(_leaves(settings))
    helps = {owner: _docstrings(owner) for owner in {leaf.owner for leaf in leaves}}
    return [
        Variable(
            name=(prefix + leaf.path).upper(),
            type=_type_name(leaf.type),
            default=None if leaf.default is dataclasses.MISSING else _written(leaf.default),
            help=leaf.field.metadata.get("help", helps[leaf.owner].get(leaf.field.name, "")),
        )
        for leaf in leaves
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    """A field that holds a plain value, by its underscored path from the outermost dataclass."""

    owner: type[Any]
    field: dataclasses.Field[Any]
    path: str
    type: Any
    default: Any


def _leaves(settings: type[Any], path: str = "", instance: object = None) -> Iterator[_Leaf]:
    types = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kind, here = types[field.name], path + field.name
        default = _default(field) if instance is None else getattr(instance, field.name)
        if dataclasses.is_dataclass(kind):
            inner = None if default is dataclasses.MISSING else default
            yield from _leaves(typing.cast("type[Any]", kind), f"{here}_", inner)
        else:
            yield _Leaf(owner=settings, field=field, path=here, type=kind, default=default)


def _built(settings: type[T], values: Mapping[str, Any], path: str = "") -> T:
    types = typing.get_type_hints(settings)
    arguments = {}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type] # T is a dataclass
        kind, here = types[field.name], path + field.name
        nested = dataclasses.is_dataclass(kind)
        arguments[field.name] = _built(kind, values, f"{here}_") if nested else values[here]
    return settings(**arguments)


def _model(leaves: Mapping[str, _Leaf], environ: Mapping[str, str]) -> type[BaseSettings]:
    """Make the pydantic-settings model that reads and converts the variables of *environ*."""

    class FromEnvironment(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return {name.lower(): value for name, value in environ.items()}

        def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
            try:
                return super().decode_complex_value(field_name, field, value)
            except ValueError as error:
                raise BadSettings(f"{field.validation_alias}: not valid JSON: {error}") from None

    class Base(BaseSettings):
        model_config = SettingsConfigDict(extra="ignore", protected_namespaces=())

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            # Neither a .env file nor a folder of secrets: what is not in the environment is unset.
            return (FromEnvironment(settings_cls),)

    fields: dict[str, Any] = {}
    for name, leaf in leaves.items():
        default = ... if leaf.default is dataclasses.MISSING else leaf.default
        kind = (
            Annotated[timedelta, BeforeValidator(_seconds)] if leaf.type is timedelta else leaf.type
        )
        fields[_field(leaf)] = (kind, Field(default, validation_alias=name))
    return create_model("Settings", __base__=Base, **fields)


def _field(leaf: _Leaf) -> str:
    # A setting may be called "json" or "copy", which are pydantic's own names.
    return f"setting_{leaf.path}"


def _seconds(value: Any) -> Any:
    """Let a plain number stand for seconds beside pydantic's ISO 8601 durations."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _with_files(environ: Mapping[str, str], names: Collection[str]) -> Mapping[str, str]:
    """Add the variables that come from files; a setting that is itself a path stays one."""
    read = dict(environ)
    for name in names:
        pointer = name + FILE_SUFFIX
        if pointer in names or pointer not in environ:
            continue
        if name in environ:
            raise BadSettings(f"{name} and {pointer} are both set: set one of them")
        try:
            read[name] = Path(environ[pointer]).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"{pointer}: cannot read {environ[pointer]}: {error}") from error
    return read


def _explained(error: ValidationError) -> str:
    """Name each variable and its problem; never its value, which may be a secret."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        name, *rest = (str(part) for part in problem["loc"])
        missing = problem["type"] == "missing"
        text = "is not set and has no default" if missing else problem["msg"]
        lines.append(f"{'.'.join([name.upper(), *rest])}: {text}")
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _written(value: Any) -> str:
    """Return *value* as the environment would give it."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _type_name(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " | ".join(str(member.value) for member in kind)
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(kind))
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__name__
    return str(kind).replace("typing.", "").replace("collections.abc.", "")


def _docstrings(settings: type[Any]) -> dict[str, str]:
    """Return the string literals under the fields, from the source: Python does not keep them."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value).replace("\n", " ")
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
