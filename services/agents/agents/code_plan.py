"""The agent that decides which files are to be written from what the user has settled."""

from collections.abc import AsyncGenerator

from pydantic import BaseModel, ConfigDict

from maieutic.v1.specification_pb2 import CONFLICT_SEVERITY_HIGH
from maieutic.v1.turn_service_pb2 import CodeManifest, Findings, ManifestFile
from services.agents.agents import known
from services.agents.agents.asking import Form
from services.agents.code_files import problem_of_plan
from services.agents.errors import NotDoable
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Model,
    ModelMessage,
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


class CodePlanAgent:
    """Makes the manifest; says nothing of its own to the user."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._form = Form(model, prompt, STEP, _Form)

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Plan the files. Raises NotDoable and ModelMalformed.

        A plan that cannot be written is made once again, with what is wrong with it.
        """
        if not standing_specifications(context.findings) and not context.text.strip():
            raise NotDoable("NO_SPECIFICATIONS", NOTHING_KNOWN)
        yield PLANNING
        asked: tuple[ModelMessage, ...] = (_asked(context),)
        sections = (known.specifications(context), known.conflicts(context))
        form, usage = await self._form.filled_in(context, asked, sections)
        if problem := _problem(form):
            again = f"This plan cannot be used: {problem}. Make the whole plan again."
            asked = (
                *asked,
                ModelMessage(author=Author.AGENT, text=form.model_dump_json()),
                ModelMessage(author=Author.USER, text=again),
            )
            form, more = await self._form.filled_in(context, asked, sections)
            usage += more
        if problem := _problem(form):
            raise NotDoable("BAD_FILE_PLAN", f"The model's plan of files is unusable: {problem}.")
        yield Answer(text="", usage=usage, findings=Findings(manifest=_manifest(form, context)))


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
