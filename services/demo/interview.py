"""The Socratic conversation: the agent asks, and what does not go together is found and decided."""

from dataclasses import dataclass, field

from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.specification_pb2 import (
    RESOLUTION_KIND_KEEP_SECOND,
    RESOLUTION_KIND_REPLACE,
    Conflict,
    ResolutionKind,
)
from maieutic.v1.turn_service_pb2 import TURN_KIND_ANALYSIS, Findings
from maieutic_client import Maieutic
from maieutic_client.session_stream import SessionStream
from maieutic_client.stream import TurnStream
from services.demo.proofs import Proofs
from services.demo.screen import Screen

ANSWERS = (
    "It is for a school library.",
    "At most 20 children use it at once.",
    "It must run on SQLite.",
    "It must be written in Python.",
    "It must answer within 1 second.",
    "No passwords should be stored.",
    "Actually we must use Postgres as the database.",
    "At least 200 children use it at once.",
)
STORAGE = (ANSWERS[2], ANSWERS[6])
USERS = (ANSWERS[1], ANSWERS[7])
PLANTED = [STORAGE, USERS]
"""What contradicts, in the order in which it is said."""
DECIDED = "Up to 200 children use it at once."
WATCH_SECONDS = 60.0
"""For the whole conversation; what has not come by then never will."""


@dataclass(slots=True)
class Interview:
    """One session in Socratic mode, and what it has proved."""

    client: Maieutic
    screen: Screen
    proofs: Proofs
    session_id: str = ""
    conflicts: set[str] = field(default_factory=set)
    """Those that were shown."""

    async def hold(self) -> None:
        """Answer the agent's questions, and show what is understood from each answer."""
        self.screen.title("The agent asks: a Socratic conversation with two contradictions")
        session = await self.client.sessions.create(mode=SESSION_MODE_SOCRATIC, title="Library")
        self.session_id = session.session_id
        async with self.client.sessions.watch(session, timeout=WATCH_SECONDS) as happening:
            await anext(happening)  # how the session stands; from now on all that happens is told
            await self._next_question()
            for answer in ANSWERS:
                self.screen.line(f"You: {answer}", style="bold")
                turn = self.client.turns.stream(session, answer)
                await self._shown(turn)
                await self._show_understood(happening, turn.turn_id)

    async def decide(self) -> None:
        """Decide both conflicts, each in another way; the questions after that have to heed it."""
        conflicts = [one async for one in self.client.specifications.conflicts(self.session_id)]
        self._show_conflicts(conflicts)
        found = [(one.first.value, one.second.value) for one in conflicts]
        if not self.proofs.expect(
            "both contradictions are found, and nothing else",
            held=found == PLANTED,
            detail=f"{len(found)} conflicts from {len(ANSWERS)} answers",
        ):
            return
        storage, users = conflicts
        await self._decide(storage, RESOLUTION_KIND_KEEP_SECOND)
        second = await self._next_question()
        await self._decide(users, RESOLUTION_KIND_REPLACE, DECIDED)
        third = await self._next_question()
        self.proofs.expect(
            "the next question heeds a decision",
            held=(_asked(second), _asked(third)) == ([USERS], []),
            detail=f"conflicts asked about: {len(_asked(second))} after the first decision, "
            f"{len(_asked(third))} after the second",
        )

    async def _next_question(self) -> str:
        return await self._shown(self.client.turns.next_question(self.session_id))

    async def _shown(self, turn: TurnStream) -> str:
        """Show a question as it is written, and return it."""
        self.screen.token("Maieutic: ")
        async for frame in turn:
            if frame.HasField("delta"):
                self.screen.token(frame.delta.text)
        self.screen.line("")
        return (await turn.result()).text

    async def _show_understood(self, happening: SessionStream, turn_id: str) -> None:
        """Show what the analysis beside a turn finds, until it has ended."""
        async for frame in happening:
            if frame.kind != TURN_KIND_ANALYSIS or frame.parent_turn_id != turn_id:
                continue
            self._show_found(frame.turn_step_finished.findings)
            if frame.HasField("turn_ended"):
                return

    def _show_found(self, findings: Findings) -> None:
        for one in findings.specifications:
            self.screen.line(f"  understood, {one.category}: {one.value}", style="green")
        for conflict in findings.conflicts:  # each analysis tells all those that are open
            if conflict.conflict_id not in self.conflicts:
                self.screen.line(f"  conflict: {conflict.explanation}", style="yellow")
            self.conflicts.add(conflict.conflict_id)

    def _show_conflicts(self, conflicts: list[Conflict]) -> None:
        rows = [(one.first.category, one.first.value, one.second.value) for one in conflicts]
        self.screen.table("To be decided", ("about", "first", "second"), rows)

    async def _decide(
        self, conflict: Conflict, kind: ResolutionKind.ValueType, value: str = ""
    ) -> None:
        await self.client.specifications.resolve(
            self.session_id, conflict.conflict_id, kind, value=value
        )
        self.screen.line(f"You decide: {value or conflict.second.value}", style="bold")


def _asked(question: str) -> list[tuple[str, str]]:
    """Return the contradictions of which a question names a side."""
    return [sides for sides in PLANTED if any(side in question for side in sides)]
