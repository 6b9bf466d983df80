"""The conversation that the demonstration holds, step by step."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from maieutic.v1.message_pb2 import Message
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnOutcome
from maieutic_client import Maieutic
from maieutic_client.stream import TurnStream
from services.demo.backend import Backend
from services.demo.corpus import Text
from services.demo.proofs import Proofs, TurnTiming, archived_after
from services.demo.screen import Screen

ARCHIVE_SECONDS = 15.0
CUT_AFTER_DELTAS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and the document that answers it."""

    text: str
    source: str
    topic: str


QUESTIONS = (
    Question(
        text="How do I connect to Redis from Python with asyncio?", source="redis", topic="Redis"
    ),
    Question(
        text="How does aio-pika publish a message to RabbitMQ over a robust connection?",
        source="aio-pika",
        topic="RabbitMQ",
    ),
    Question(
        text="How fast is asyncpg compared with other PostgreSQL drivers?",
        source="asyncpg",
        topic="PostgreSQL",
    ),
)
CUT_QUESTION = "What does opentelemetry do, and how does grpc relate to protocol buffers?"
KILL_QUESTION = "What are safetensors, and why are they safe?"
SUMMARY_QUESTION = "Please give me a summary of our conversation."


@dataclass(slots=True)
class Conversation:
    """One session over the documents, and what it has proved so far."""

    backend: Backend
    client: Maieutic
    screen: Screen
    proofs: Proofs
    session_id: str = ""

    async def ingest(self, texts: Sequence[Text]) -> list[str]:
        """Store the texts twice; the second time nothing may be embedded."""
        self.screen.title(f"Documents: {len(texts)} real package descriptions")
        ids, embedded, reused = await self._add_all("embedding", texts)
        self.screen.line(f"{embedded} passages embedded, {reused} shared between documents")
        again, embedded_again, reused_again = await self._add_all("once more", texts)
        self.proofs.expect(
            "the same documents again cost no embedding",
            held=embedded > 0 and embedded_again == 0 and ids == again,
            detail=f"{embedded} passages embedded first, {embedded_again} the second time",
        )
        self.screen.line(f"{embedded_again} passages embedded, {reused_again} found stored")
        return ids

    async def _add_all(self, title: str, texts: Sequence[Text]) -> tuple[list[str], int, int]:
        ids, embedded, reused = [], 0, 0
        with self.screen.steps(title, len(texts)) as steps:
            for text in texts:
                added = await self.client.documents.add(text.name, text.content)
                ids.append(added.document.document_id)
                embedded += added.chunks_embedded
                reused += added.chunks_reused
                steps.done(text.name)
        return ids, embedded, reused

    async def begin(self, document_ids: Sequence[str]) -> None:
        """Open the session."""
        session = await self.client.sessions.create(title="Demo", document_ids=document_ids)
        self.session_id = session.session_id

    async def ask_questions(self) -> None:
        """Ask, stream, and check that each answer cites the document that knows."""
        for question in QUESTIONS:
            outcome = await self._ask(question.text, question.topic)
            cited = {citation.document_name for citation in outcome.citations}
            self.proofs.expect(
                f"the answer on {question.topic} cites {question.source}",
                held=any(name.startswith(question.source) for name in cited),
                detail=f"{len(outcome.citations)} citations from {', '.join(sorted(cited))}",
            )

    async def _ask(self, text: str, name: str) -> TurnOutcome:
        self.screen.title(f"You: {text}")
        stream, timing = self.client.turns.stream(self.session_id, text), _Timing(name)
        async for frame in stream:
            timing.saw(frame.WhichOneof("event"))
            if frame.HasField("delta"):
                self.screen.token(frame.delta.text)
        self.screen.line("")
        outcome = await stream.result()
        for citation in outcome.citations:
            self.screen.line(f"  [{citation.number}] {citation.document_name}", style="dim")
        await self._note(stream, timing)
        return outcome

    async def _note(self, stream: TurnStream, timing: "_Timing") -> None:
        """Add the turn's timings, once the archive has it."""
        until = time.monotonic() + ARCHIVE_SECONDS
        turn = await self.client.turns.get(stream.turn_id)
        while not turn.HasField("archive_time") and time.monotonic() < until:
            await asyncio.sleep(0.02)
            turn = await self.client.turns.get(stream.turn_id)
        self.proofs.timings.append(timing.table_row(archived_after(turn)))

    async def cut_and_resume(self) -> None:
        """Leave a stream in the middle, take it up at its cursor, and compare."""
        self.screen.title("A stream is cut in the middle, and resumed")
        stream, timing = self.client.turns.stream(self.session_id, CUT_QUESTION), _Timing("cut")
        await self._read_deltas(stream, CUT_AFTER_DELTAS, timing)
        await stream.aclose()
        before = stream.text
        self.screen.line(f"cut after {len(before)} characters")
        resumed = self.client.turns.watch(stream.turn_id, cursor=stream.cursor)
        rest = ""
        async for frame in resumed:
            timing.saw(frame.WhichOneof("event"))
            rest += frame.delta.text
        outcome = await resumed.result()
        whole = await self.client.turns.watch(stream.turn_id).result()
        self.proofs.expect(
            "a cut stream goes on where it was",
            held=bool(before and rest) and before + rest == outcome.text == whole.text,
            detail=f"{len(before)} + {len(rest)} = {len(outcome.text)} characters",
        )
        await self._note(stream, timing)

    async def _read_deltas(self, stream: TurnStream, count: int, timing: "_Timing") -> None:
        async for frame in stream:
            timing.saw(frame.WhichOneof("event"))
            count -= frame.HasField("delta")
            if count <= 0:
                return

    async def kill_worker(self) -> None:
        """Kill the process that runs the worker, in mid-turn; another attempt must finish."""
        self.screen.title("The worker, with its whole process, is killed in mid-answer")
        stream, timing = self.client.turns.stream(self.session_id, KILL_QUESTION), _Timing("killed")
        await self._read_deltas(stream, CUT_AFTER_DELTAS, timing)
        killed_at = time.monotonic()
        await self.backend.kill()
        self.screen.line(f"kill -9 after {len(stream.text)} characters; starting again")
        await self.backend.start()
        async for frame in stream:
            timing.saw(frame.WhichOneof("event"))
        outcome = await stream.result()
        self.proofs.expect(
            "a turn whose worker was killed is finished by another attempt",
            held=outcome.state == TURN_STATE_COMPLETED and outcome.attempts > 1,
            detail=f"attempt {outcome.attempts}, {time.monotonic() - killed_at:.1f} s later",
        )
        answers = [m for m in await self.history() if m.turn_id == stream.turn_id]
        self.proofs.expect(
            "it has one answer",
            held=len(answers) == 2 and outcome.text in {m.text for m in answers},  # noqa: PLR2004 - question and answer
            detail=f"{len(answers)} messages of that turn",
        )
        await self._note(stream, timing)

    async def summarise(self) -> None:
        """Ask what was said; the answer must have the topics."""
        outcome = await self._ask(SUMMARY_QUESTION, "summary")
        missing = [q.topic for q in QUESTIONS if q.topic not in outcome.text]
        self.proofs.expect(
            "the conversation remembers what was said",
            held=not missing,
            detail=f"topics missing: {', '.join(missing) or 'none'}",
        )

    async def restart(self) -> None:
        """Stop everything, start it again, and read the conversation."""
        self.screen.title("The whole backend is restarted")
        before = await self.history()
        await self.backend.stop()
        await self.backend.start()
        after = await self.history()
        self.proofs.expect(
            "the history survives a restart",
            held=bool(before) and before == after,
            detail=f"{len(after)} messages, as before",
        )

    async def history(self) -> list[Message]:
        """Return all messages, newest first."""
        return [message async for message in self.client.sessions.messages(self.session_id)]


class _Timing:
    """When a turn reached its stages, as the caller sees it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked = time.monotonic()
        self._seen: dict[str, float] = {}

    def saw(self, event: str | None) -> None:
        self._seen.setdefault(event or "", (time.monotonic() - self._asked) * 1000)

    def table_row(self, archived: float | None) -> TurnTiming:
        return TurnTiming(
            name=self._name,
            accepted=self._seen.get("accepted"),
            first_token=self._seen.get("delta"),
            done=self._seen.get("outcome"),
            archived=archived,
        )
