"""Agents, tools and prompts of installed packages, as far as the settings name them.

Whatever is wrong with one is told at the start, as BadSettings, and never in a turn.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, PydanticUserError

from services.agents.adapters.tool_servers import ToolServerOptions
from services.agents.agents.team_tools import NAME, NAME_CHARACTERS, TeamTool
from services.agents.agents.tools import OURS
from services.agents.extension import AgentFactory, AgentParts
from services.agents.ports import Agent
from services.agents.prompts import BadPrompts, Prompt, load_prompt, prompts_in
from services.runtime.settings import BadSettings

AGENT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
"""As requests may give it."""
VARIABLE = "MAIEUTIC_EXTENSIONS_"
SERVER_CHARACTERS = 20
OWN_FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionOptions:
    """What is used of other packages; that they are installed is not enough."""

    agents: tuple[str, ...] = ()
    """JSON array of entry points of the group maieutic.agents. One that is named as an agent of
    ours takes its place; others are asked for by name, with the field agent of a turn."""

    tools: tuple[str, ...] = ()
    """JSON array of entry points of the group maieutic.tools, which models may then call."""

    prompts: tuple[str, ...] = ()
    """JSON array of entry points of the group maieutic.prompts, packages of files
    <name>_v<version>.md; they take the places of our prompts of these names. Of two packages that
    have one of the same name the first counts."""

    prompts_folder: str = ""
    """Folder of such files, which comes before all packages."""

    servers: ToolServerOptions = field(default_factory=ToolServerOptions)
    """The servers whose tools models may call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """What the settings name, loaded."""

    factories: Mapping[str, AgentFactory]
    tools: Sequence[TeamTool[Any]]
    prompts: Mapping[str, Prompt]

    def prompt(self, name: str, version: int) -> Prompt:
        """Return the prompt that takes the place of ours, or ours in this version."""
        return self.prompts.get(name) or load_prompt(name, version)

    def agents(self, parts: AgentParts) -> Mapping[str, Agent]:
        """Make the agents. Raises BadSettings for one that cannot be made."""
        return {name: _made(name, factory, parts) for name, factory in self.factories.items()}


def load_extensions(options: ExtensionOptions) -> Extensions:
    """Load what the settings name. Raises BadSettings naming the entry point and the fix."""
    _check(options.servers)
    agents = {name: _agent_factory(name) for name in options.agents}
    tools = [_tool(name) for name in options.tools]
    for name, count in Counter([*OURS, *(tool.name for tool in tools)]).items():
        if count > 1:
            raise BadSettings(
                f"{VARIABLE}TOOLS: {count} tools are called {name!r}, those of Maieutic included: "
                "rename or leave out one"
            )
    return Extensions(factories=agents, tools=tools, prompts=_prompts(options))


def _check(servers: ToolServerOptions) -> None:
    for name, address in servers.addresses.items():
        if NAME.fullmatch(name) is None or len(name) > SERVER_CHARACTERS or not address:
            raise BadSettings(
                f"{VARIABLE}SERVERS_ADDRESSES: {name!r}: a server is named by lower-case letters, "
                f"digits and single underscores, at most {SERVER_CHARACTERS}, and has an address"
            )


def _agent_factory(name: str) -> AgentFactory:
    if AGENT_NAME.fullmatch(name) is None:
        raise BadSettings(
            f"{VARIABLE}AGENTS: {name!r}: an agent is named by a lower-case letter, then at most "
            "63 of lower-case letters, digits, - and _: rename its entry point"
        )
    factory: AgentFactory = _loaded("agents", name)
    if not callable(factory):
        raise BadSettings(
            f"{VARIABLE}AGENTS: {name!r} is {_kind(factory)}: its entry point has to name a "
            "function or class that is called with the AgentParts and returns an Agent"
        )
    return factory


def _made(name: str, factory: AgentFactory, parts: AgentParts) -> Agent:
    try:
        agent = factory(parts)
    # The edge of another package's code: whatever it raises, the operator has to know where.
    except Exception as error:
        raise BadSettings(
            f"{VARIABLE}AGENTS: {name!r} could not be made: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(agent, "run", None)):
        raise BadSettings(
            f"{VARIABLE}AGENTS: {name!r} makes something {_kind(agent)}, which is no Agent: it "
            "has no method run(context)"
        )
    return agent


def _tool(name: str) -> TeamTool[Any]:
    tool = _loaded("tools", name)
    if not isinstance(tool, TeamTool) or not _is_form(tool.form):
        raise BadSettings(
            f"{VARIABLE}TOOLS: {name!r} is {_kind(tool)}: its entry point has to name a TeamTool, "
            "whose form is a class of pydantic.BaseModel with fields that JSON can hold"
        )
    if NAME.fullmatch(tool.name) is None or len(tool.name) > NAME_CHARACTERS:
        raise BadSettings(
            f"{VARIABLE}TOOLS: {name!r}: the tool is called {tool.name!r}: call it by lower-case "
            f"letters, digits and single underscores, at most {NAME_CHARACTERS}"
        )
    return tool


def _prompts(options: ExtensionOptions) -> Mapping[str, Prompt]:
    found: dict[str, Prompt] = {}
    for name in reversed(options.prompts):
        package = _loaded("prompts", name)
        if not isinstance(package, ModuleType) or not hasattr(package, "__path__"):
            raise BadSettings(
                f"{VARIABLE}PROMPTS: {name!r} is {_kind(package)}: its entry point has to name a "
                "package, the folder of the prompts"
            )
        found |= _read(f"PROMPTS: {name!r}", name, files(package))
    if folder := options.prompts_folder:
        found |= _read(f"PROMPTS_FOLDER: {folder}", OWN_FOLDER, Path(folder))
    return found


def _read(where: str, origin: str, folder: Traversable) -> Mapping[str, Prompt]:
    try:
        return prompts_in(origin, folder)
    except BadPrompts as error:
        raise BadSettings(f"{VARIABLE}{where}: {error}") from error


def _loaded(group: str, name: str) -> Any:
    """Return what the entry point names. Raises BadSettings."""
    entry = _entry(group, name)
    try:
        return entry.load()
    # The edge of another package's code: importing it may raise anything.
    except Exception as error:
        raise BadSettings(
            f"{VARIABLE}{group.upper()}: {name!r} ({_where(entry)}) cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


def _entry(group: str, name: str) -> EntryPoint:
    known = entry_points(group=f"maieutic.{group}")
    found = {_where(entry): entry for entry in known if entry.name == name}
    if len(found) == 1:
        return next(iter(found.values()))
    variable = VARIABLE + group.upper()
    if found:
        raise BadSettings(
            f"{variable}: {name!r} is brought by several packages: {', '.join(sorted(found))}: "
            "uninstall all but one"
        )
    there = ", ".join(sorted({entry.name for entry in known})) or "none"
    raise BadSettings(
        f"{variable}: no installed package has an entry point {name!r} in the group "
        f"maieutic.{group} (there are: {there}): install its package where the workers run, or "
        "take it out of the list"
    )


def _where(entry: EntryPoint) -> str:
    return f"{entry.value} of {entry.dist.name}" if entry.dist else entry.value


def _is_form(form: object) -> bool:
    """Whether a model can be told of it: an API refuses all that is asked with any other schema."""
    if not (isinstance(form, type) and issubclass(form, BaseModel)):
        return False
    try:
        return form.model_json_schema().get("type") == "object"
    except PydanticUserError:
        return False


def _kind(value: object) -> str:
    return f"of the type {type(value).__name__}"
