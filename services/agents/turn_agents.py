"""The agents at work on one claimed turn: one answers, or several take a routing slip's steps."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Protocol

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.turn_work_service_pb2 import (
    WRITE_STATUS_APPLIED,
    CompleteStepResponse,
    TurnClaim,
)
from maieutic.v1.message_pb2 import AUTHOR_AGENT
from maieutic.v1.turn_service_pb2 import Usage
from services.agents.crew import Crew
from services.agents.errors import AnswerTooLarge
from services.agents.failures import NO_AGENT, Failure, no_agent
from services.agents.ports import (
    Agent,
    AgentContext,
    AgentEvent,
    Answer,
    Author,
    ModelMessage,
    ReadHistory,
)
from services.agents.recorder import RecordedTurn
from services.agents.turn_work import TurnWork

MOST_ANSWER_BYTES = 512 * 1024
"""If the session service does not say how much an answer may hold; it never says more."""


class Commit(Protocol):
    """Sends a step once every frame is recorded; raises TurnStopped if the turn is lost."""

    def __call__(
        self, turn: RecordedTurn, send: Callable[[int], Awaitable[CompleteStepResponse]], /
    ) -> Awaitable[CompleteStepResponse]:
        """Return the answer to the step that was applied; *send* is given the last frame."""
        ...


class TurnAgents:
    """Lets the turn's agent answer, or the agents of its routing slip work one by one."""

    def __init__(self, *, job: RunTurn, work: TurnWork, crew: Crew, commit: Commit) -> None:
        self._job = job
        self._work = work
        self._crew = crew
        self._commit = commit
        self._steps: list[tuple[str, Answer]] = []
        """Those that were taken here."""
        self._told_under = 0
        """The fence under which they were committed."""

    @property
    def consumed(self) -> Sequence[Usage]:
        """What the steps have consumed that were taken here."""
        return [usage for _, answer in self._steps for usage in answer.usage]

    async def answer(self, turn: RecordedTurn, claim: TurnClaim) -> Answer | Failure:
        """Return the turn's answer; every step before it is committed."""
        most = claim.answer_bytes or MOST_ANSWER_BYTES
        context = _context(self._job, claim, partial(self._work.messages, turn.log))
        if not self._job.steps:
            if (agent := self._crew.of(self._job, claim.session)) is None:
                return no_agent(self._job.agent, self._crew.named)
            return await _said(agent, context, turn, most)
        for step in self._job.steps:
            if step in claim.finished_steps:
                continue
            if (agent := self._crew.steps.get(step)) is None:
                return NO_AGENT
            self._steps.append((step, await _said(agent, context, turn, most)))
            response = await self._commit(turn, lambda _: self._tell(turn))
            context = replace(context, findings=response.findings)
        return Answer(text="")

    async def tell_again(self, turn: RecordedTurn) -> None:
        """Commit the steps again if the live store has lost the turn since."""
        if self._steps and self._told_under != turn.log.fence:
            await self._tell(turn)

    async def _tell(self, turn: RecordedTurn) -> CompleteStepResponse:
        """Send all steps that were taken here: a live store that lost the turn has lost them."""
        response = CompleteStepResponse(status=WRITE_STATUS_APPLIED)
        for step, answer in self._steps:
            response = await self._work.complete_step(turn.log, step, answer)
            if response.status != WRITE_STATUS_APPLIED:
                return response
        self._told_under = turn.log.fence
        return response


async def _said(agent: Agent, context: AgentContext, turn: RecordedTurn, most: int) -> Answer:
    """Record what the agent says, and return its answer; raises AnswerTooLarge over *most* bytes.

    More would not fit the messages in which it travels: it would come nowhere, and hold up the
    stream that this turn shares with others.
    """
    said = 0
    async with aclosing(agent.run(context)) as events:
        async for event in events:
            said = _size(event) if isinstance(event, Answer) else said + _size(event)
            if said > most:
                raise AnswerTooLarge(most)
            if isinstance(event, Answer):
                return event
            turn.append(event)
    raise RuntimeError("the agent ended without an answer")


def _size(event: AgentEvent) -> int:
    size = len(event.text.encode())
    if isinstance(event, Answer):
        size += sum(citation.ByteSize() for citation in event.citations)
        size += event.findings.ByteSize() if event.findings is not None else 0
    return size


def _context(job: RunTurn, claim: TurnClaim, history: ReadHistory) -> AgentContext:
    return AgentContext(
        tenant=job.tenant,
        user_id=job.user_id,
        session_id=job.message.session_id,
        turn_id=job.turn_id,
        text=job.message.text,
        history=history,
        findings=claim.findings,
        deadline=claim.deadline.ToMicroseconds() / 1e6,
        document_ids=tuple(claim.session.document_ids),
        collection=job.collection,
        messages=tuple(
            ModelMessage(
                author=Author.AGENT if message.author == AUTHOR_AGENT else Author.USER,
                text=message.text,
            )
            for message in claim.window
        ),
    )
