"""Tools of a team's own, written in Python."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel

from services.agents.agents.asking import schema_of
from services.agents.agents.loop import Tool, Tools
from services.agents.cancelling import is_own_cancel
from services.agents.errors import ToolProblem
from services.agents.ports import AgentContext, ModelTool, Notice
from services.runtime.errors import ServiceError

_LOG = logging.getLogger(__name__)

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
NAME_CHARACTERS = 64
USING_TOOL = "USING_TOOL"

F = TypeVar("F", bound=BaseModel)

MoreTools: TypeAlias = Callable[[AgentContext], Tools]
"""What may be used for a turn besides our own tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamTool(Generic[F]):
    """A tool that serves any number of turns at once."""

    name: str
    """Lower case, digits and single underscores, at most 64; the model calls it by this name."""
    description: str
    """What it is for, told to the model."""
    form: type[F]
    """Of its input. What a model gives is checked against it before a call."""
    call: Callable[[AgentContext, F], Awaitable[str]]
    """Returns what the model is to read. ToolProblem tells the model what went wrong; anything
    else that it raises is logged, and the model is told that the tool failed."""
    notice: str
    """What watchers of the turn are shown while it works."""


class TeamTools:
    """The tools of the team that a worker was told to use."""

    def __init__(self, tools: Iterable[TeamTool[Any]]) -> None:
        # A schema is made once: it takes longer than all the rest of a call.
        self._tools = [(tool, _told(tool)) for tool in tools]

    def of(self, context: AgentContext) -> Tools:
        """Return what may be used for the turn."""
        return [
            Tool(
                told=told,
                form=tool.form,
                notice=Notice(code=USING_TOOL, text=tool.notice),
                call=_calling(tool, context),
            )
            for tool, told in self._tools
        ]


def _told(tool: TeamTool[Any]) -> ModelTool:
    return ModelTool(name=tool.name, description=tool.description, schema=schema_of(tool.form))


def _calling(tool: TeamTool[F], context: AgentContext) -> Callable[[F], Awaitable[str]]:
    async def call(given: F) -> str:
        try:
            return str(await tool.call(context, given))
        except (ToolProblem, ServiceError):
            raise
        # The edge of the team's code: what is wrong there is the tool's problem, not the turn's.
        except (Exception, asyncio.CancelledError) as error:
            if is_own_cancel(error):
                raise
            _LOG.exception("turn %s: the tool %s failed", context.turn_id, tool.name)
            raise ToolProblem(
                "The tool failed; its operator finds the cause in the log."
            ) from error

    return call
