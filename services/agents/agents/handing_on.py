"""Tools by which the direct agent leaves to other agents what is not its own to do."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from maieutic.v1.turn_service_pb2 import TURN_KIND_ANALYSIS, TURN_KIND_CODE, TurnKind
from services.agents.agents.asking import schema_of
from services.agents.agents.loop import Tool, Tools
from services.agents.ports import HandOn, ModelTool, Notice

CODE, SPECIFICATIONS = "generate_code", "record_specifications"
NAMES = (CODE, SPECIFICATIONS)
INSTRUCTIONS_CHARACTERS = 8000
HANDING_ON_CODE = Notice(code="HANDING_ON", text="Having the files written")
HANDING_ON_ANALYSIS = Notice(code="HANDING_ON", text="Having what you want put down")
BEGINS = (
    "It begins beside the conversation as soon as your answer has ended. Say so in one sentence, "
    "and do nothing of it yourself."
)


class _Code(BaseModel):
    model_config = ConfigDict(extra="forbid")

    instructions: Annotated[
        str,
        Field(
            max_length=INSTRUCTIONS_CHARACTERS,
            description="What is wanted, complete without the conversation, in the user's "
            "language. What was settled is known to whoever writes the files.",
        ),
    ] = ""


class _Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HandedOn:
    """What one answer hands on: of each kind the last."""

    def __init__(self) -> None:
        self._asked: dict[TurnKind.ValueType, HandOn] = {}

    @property
    def asked(self) -> tuple[HandOn, ...]:
        """Return it, in the order in which each kind came first."""
        return tuple(self._asked.values())

    def add(self, hand_on: HandOn) -> str:
        """Note it; returns what a model is told."""
        self._asked[hand_on.kind] = hand_on
        return BEGINS


class HandingOn:
    """Makes the tools of a turn. Nothing begins before the turn's outcome is committed."""

    def __init__(self) -> None:
        self._code = ModelTool(
            name=CODE,
            description="Has an agent write files, a program or a project, from what was settled "
            "in this conversation. Not for a few lines that explain something: write those "
            "yourself.",
            schema=schema_of(_Code),
        )
        self._specifications = ModelTool(
            name=SPECIFICATIONS,
            description="Has an agent put down what the user's last message settles or requires, "
            "and look whether it contradicts what was settled before. Not for questions.",
            schema=schema_of(_Nothing),
        )

    def of(self, handed_on: HandedOn) -> Tools:
        """Return what may be used for the turn; what is called is added to *handed_on*."""

        async def code(given: _Code) -> str:
            return handed_on.add(HandOn(kind=TURN_KIND_CODE, instructions=given.instructions))

        async def specifications(_: _Nothing) -> str:
            return handed_on.add(HandOn(kind=TURN_KIND_ANALYSIS))

        return (
            Tool(told=self._code, form=_Code, notice=HANDING_ON_CODE, call=code, ends=True),
            Tool(
                told=self._specifications,
                form=_Nothing,
                notice=HANDING_ON_ANALYSIS,
                call=specifications,
                ends=True,
            ),
        )
