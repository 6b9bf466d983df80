"""The agent that writes one file of a plan."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from maieutic.v1.turn_service_pb2 import ManifestFile, TurnFile, Usage
from services.agents.agents import known
from services.agents.agents.asking import as_data
from services.agents.agents.loop import CUT, ModelLoop
from services.agents.agents.unfenced import Unfenced
from services.agents.code_files import MOST_FILE_BYTES, MOST_TURN_BYTES
from services.agents.errors import ModelSilent, NotDoable
from services.agents.ports import (
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    Delta,
    Model,
    ModelMessage,
    ModelRequest,
    ModelSection,
    Notice,
)
from services.agents.prompts import Prompt
from services.agents.routing_slip import CODE_FILE, file_number

TRIES = 2

_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


class _Draft:
    """A file while it is written: its text, what it has cost, and what is wrong with it."""

    def __init__(self, file: ManifestFile, room: int) -> None:
        """*room* is how many bytes the turn may still have."""
        self.file = file
        self.usage: list[Usage] = []
        self.reason = ""
        """Why it cannot be used, for programs; empty if it can."""
        self.problem = ""
        """The same for the model and for people."""
        self._room = room
        self._parts: list[str] = []
        self._size = 0

    @property
    def text(self) -> str:
        """All of the file so far."""
        return "".join(self._parts)

    def begin_again(self) -> None:
        """Leave what was written."""
        self.reason = self.problem = ""
        self._parts, self._size = [], 0

    def take(self, text: str) -> None:
        """Add to the file."""
        self._parts.append(text)
        self._size += len(text.encode())
        if self._size > MOST_FILE_BYTES:
            self.spoil("FILE_TOO_LARGE", f"is larger than a file may be, {MOST_FILE_BYTES} bytes")
        elif self._size > self._room:
            self.spoil(
                "CODE_TOO_LARGE", f"makes all files together larger than {MOST_TURN_BYTES} bytes"
            )
        elif _NOT_TEXT.search(text):
            self.spoil("FILE_NOT_TEXT", "has control characters, and is no text")

    def spoil(self, reason: str, problem: str) -> None:
        """Note what is wrong."""
        self.reason, self.problem = reason, f"The file {self.file.path} {problem}."


class CodeFileAgent:
    """Writes the file of its step, from what is settled and what the plan says of all files."""

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self._loop = ModelLoop(model)
        self._prompt = prompt

    async def run(self, context: AgentContext) -> AsyncGenerator[AgentEvent, None]:
        """Write the file and store it. Raises NotDoable.

        What cannot be used is written once again, with what is wrong with it.
        """
        number, files = file_number(context.step), context.findings.manifest.files
        room = MOST_TURN_BYTES - sum(artifact.size_bytes for artifact in context.artifacts)
        draft = _Draft(files[number - 1], room)
        begins = TurnFile(path=draft.file.path, index=number, total=len(files))
        for _ in range(TRIES):
            yield begins
            async with aclosing(self._written(context, draft)) as deltas:
                async for delta in deltas:
                    yield delta
            if not draft.reason:
                break
        if draft.reason:
            raise NotDoable(draft.reason, draft.problem)
        stored = await context.put_artifact(draft.file.path, draft.text)
        yield Answer(text="", usage=tuple(draft.usage), artifacts=(stored,))

    async def _written(self, context: AgentContext, draft: _Draft) -> AsyncGenerator[Delta, None]:
        """Yield the file as it is written; the draft tells whether it can be used."""
        request, unfenced = self._request(context, draft), Unfenced(draft.file.path)
        draft.begin_again()
        async with aclosing(self._said(request)) as events:
            async for event in events:
                if isinstance(event, Usage):
                    draft.usage.append(event)
                elif event == CUT:
                    draft.spoil("FILE_CUT", "ended with the tokens of a call, before its own end")
                elif isinstance(event, Delta) and (text := unfenced.take(event.text)):
                    draft.take(text)
                    if draft.reason:
                        return
                    yield Delta(text=text)
        if text := unfenced.end():
            draft.take(text)
            yield Delta(text=text)
        if not draft.text.strip():
            draft.spoil("FILE_EMPTY", "is empty: one that needs nothing has a line that says so")

    async def _said(self, request: ModelRequest) -> AsyncGenerator[Delta | Notice | Usage, None]:
        """Yield what the model says: nothing where it leaves the file empty."""
        with suppress(ModelSilent):
            async with aclosing(self._loop.run(request, prompt=self._prompt.label)) as events:
                async for event in events:
                    yield event

    def _request(self, context: AgentContext, draft: _Draft) -> ModelRequest:
        manifest, file = context.findings.manifest, draft.file
        plan = {
            "files": [_described(one) for one in manifest.files],
            "assumptions": list(manifest.assumptions),
        }
        wrong = f"\n\nYour last try cannot be used. {draft.problem} Write it anew without that."
        instructions = f"\n\n{context.text}" if context.text.strip() else ""
        asked = f"Write the file {file.path}.{instructions}{wrong if draft.problem else ''}"
        return ModelRequest(
            turn_id=context.turn_id,
            step=CODE_FILE,
            system=self._prompt.text,
            messages=(ModelMessage(author=Author.USER, text=asked),),
            sections=(
                known.specifications(context),
                ModelSection(name="plan", text=as_data(plan)),
                ModelSection(name="file", text=as_data(_described(file))),
            ),
        )


def _described(file: ManifestFile) -> dict[str, str]:
    return {"path": file.path, "purpose": file.purpose, "interface": file.interface}
