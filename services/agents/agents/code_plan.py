"""The agent that decides which files are to be written from what the user has settled."""

from collections.abc import AsyncGenerator
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict

from maieutic.v1.specification_pb2 import CONFLICT_SEVERITY_HIGH
from maieutic.v1.turn_service_pb2 import CodeManifest, Findings, ManifestFile, Usage
from services.agents.agents import known
from services.agents.agents.asking import filled_in, schema_of
from services.agents.code_files import problem_of_plan
from services.agents.errors import NotDoable
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Model,
    ModelMessage,
    ModelRequest,
    Notice,
)
from services.agents.prompts import Prompt
from services.runtime.standing import open_conflicts, standing_specifications

STEP = "code_plan"
MOST_ASSUMPTIONS = 40
TEXT_CHARACTERS = 500
INTERFACE_CHARACTERS = 1000
MOST_CONFLICTS = 20
SIDE_CHARACTERS = 200

PLANNING = Notice(code="PLANNING_FILES", text="Deciding which files to write")
PLAN_THEM = "Plan the files."
NOTHING_KNOWN = (
    "Nothing is settled in this session that code could be made from, and no instructions were "
    "given: talk about what you want in Socratic mode first, or give instructions."
)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    purpose: str
    interface: str


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    files: list[_File]
    assumptions: list[str]


Asked: TypeAlias = tuple[ModelMessage, ...]
Filled: TypeAlias = tuple[_Form, tuple[Usage, ...]]


class CodePlanAgent:
    """Makes the manifest; says nothing of its own to the user."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._model = model
        self._prompt = prompt
        self._schema = schema_of(_Form)

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Plan the files. Raises NotDoable and ModelMalformed.

        A plan that cannot be written is made once again, with what is wrong with it.
        """
        if not standing_specifications(context.findings) and not context.text.strip():
            raise NotDoable("NO_SPECIFICATIONS", NOTHING_KNOWN)
        yield PLANNING
        asked: Asked = (_asked(context),)
        form, usage = await self._filled_in(context, asked)
        if problem := _problem(form):
            again = f"This plan cannot be used: {problem}. Make the whole plan again."
            asked = (
                *asked,
                ModelMessage(author=Author.AGENT, text=form.model_dump_json()),
                ModelMessage(author=Author.USER, text=again),
            )
            form, more = await self._filled_in(context, asked)
            usage += more
        if problem := _problem(form):
            raise NotDoable("BAD_FILE_PLAN", f"The model's plan of files is unusable: {problem}.")
        yield Answer(text="", usage=usage, findings=Findings(manifest=_manifest(form, context)))

    async def _filled_in(self, context: AgentContext, asked: Asked) -> Filled:
        request = ModelRequest(
            turn_id=context.turn_id,
            step=STEP,
            system=self._prompt.text,
            messages=asked,
            sections=(known.specifications(context), known.conflicts(context)),
            schema=self._schema,
        )
        return await filled_in(self._model, request, _Form, prompt=self._prompt.label)


def _asked(context: AgentContext) -> ModelMessage:
    instructions = f"\n\n{context.text}" if context.text.strip() else ""
    return ModelMessage(author=Author.USER, text=f"{PLAN_THEM}{instructions}")


def _problem(form: _Form) -> str:
    return problem_of_plan([file.path for file in form.files])


def _manifest(form: _Form, context: AgentContext) -> CodeManifest:
    """Return the plan, which names what nobody may take for decided."""
    undecided = [
        f"Not decided: “{one.first.value[:SIDE_CHARACTERS]}” or "
        f"“{one.second.value[:SIDE_CHARACTERS]}”."
        for one in open_conflicts(context.findings)
        if one.severity == CONFLICT_SEVERITY_HIGH
    ]
    return CodeManifest(
        files=[
            ManifestFile(
                path=file.path,
                purpose=file.purpose[:TEXT_CHARACTERS],
                interface=file.interface[:INTERFACE_CHARACTERS],
            )
            for file in form.files
        ],
        assumptions=[
            *(one[:TEXT_CHARACTERS] for one in form.assumptions[:MOST_ASSUMPTIONS]),
            *undecided[:MOST_CONFLICTS],
        ],
    )
