"""The agents at work on one claimed turn: one answers, or several take a routing slip's steps."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
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
from maieutic.v1.turn_service_pb2 import Findings, TurnFile, Usage
from services.agents.conversation import since_summary, with_all_since_summary
from services.agents.crew import Crew
from services.agents.errors import AnswerTooLarge
from services.agents.failures import NO_AGENT, Failure, no_agent
from services.agents.ports import Agent, AgentContext, AgentEvent, Answer
from services.agents.recorded_turns import RecordedTurn
from services.agents.routing_slip import next_step
from services.agents.turn_work import TurnWork, told
from services.runtime.turn_files import finished_files

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
        """Those that are finished, of earlier attempts, too."""
        self._told = 0
        """How many of them are committed,"""
        self._told_under = 0
        """under this fence."""
        self._telling = asyncio.Lock()
        self._answered = CompleteStepResponse(status=WRITE_STATUS_APPLIED)
        """To the last step that was committed."""

    @property
    def consumed(self) -> Sequence[Usage]:
        """What the finished steps have consumed."""
        return [usage for _, answer in self._steps for usage in answer.usage]

    async def answer(self, turn: RecordedTurn, claim: TurnClaim) -> Answer | Failure:
        """Return the turn's answer; every step before it is committed."""
        context = self._context(turn, claim)
        if self._job.steps:
            return await self._by_steps(turn, claim, context)
        if (agent := self._crew.of(self._job, claim.session)) is None:
            return no_agent(self._job.agent, self._crew.named)
        context = await with_all_since_summary(context, claim)
        return await _said(agent, context, turn, _most(claim))

    async def _by_steps(
        self, turn: RecordedTurn, claim: TurnClaim, context: AgentContext
    ) -> Answer | Failure:
        """Take the steps that are left, one by one, and commit each."""
        self._take_over(claim)
        context = self._with_steps(context, claim.findings)
        if context.artifacts:
            turn.go_on_after(finished_files(context.findings.manifest, context.artifacts))
        finished = {*claim.finished_steps, *(step for step, _ in self._steps)}
        while (step := self._next_step(context, finished)) is not None:
            if (agent := self._crew.for_step(step)) is None:
                return NO_AGENT
            answer = await _said(agent, replace(context, step=step), turn, _most(claim))
            self._steps.append((step, answer))
            finished.add(step)
            response = await self._commit(turn, lambda _: self._tell(turn))
            context = self._with_steps(context, response.findings)
            for file in finished_files(context.findings.manifest, answer.artifacts):
                turn.append(file)
        return Answer(text=self._crew.conclusion(self._job, context))

    def _next_step(self, context: AgentContext, finished: Container[str]) -> str | None:
        return next_step(self._job.steps, context.findings.manifest, finished)

    def _take_over(self, claim: TurnClaim) -> None:
        """Know the steps that earlier attempts have finished: who claims again tells them again."""
        self._steps = [
            (
                step.step,
                Answer(
                    text="",
                    usage=tuple(step.usage),
                    findings=step.findings,
                    artifacts=tuple(step.artifacts),
                ),
            )
            for step in claim.steps
        ]
        self._told, self._told_under = len(self._steps), claim.fence

    def _with_steps(self, context: AgentContext, known: Findings) -> AgentContext:
        """Return the context with what is known now, and what the turn has made."""
        made = tuple(artifact for _, answer in self._steps for artifact in answer.artifacts)
        return replace(context, findings=known, artifacts=made)

    @property
    def committed(self) -> int:
        """How many steps are committed, as far as is known."""
        return self._told

    async def tell_all(self, turn: RecordedTurn) -> None:
        """Commit all steps again: the live store has lost the turn, or some of it."""
        self._told_under = 0
        await self.tell_again(turn)

    async def tell_again(self, turn: RecordedTurn) -> None:
        """Commit the steps again if the live store has lost the turn since."""
        if self._steps:
            await self._tell(turn)

    async def _tell(self, turn: RecordedTurn) -> CompleteStepResponse:
        """Commit what is not committed: a live store that lost the turn has lost all steps."""
        async with self._telling:
            if self._told_under != turn.log.fence:
                self._told, self._told_under = 0, turn.log.fence
            for step, answer in self._steps[self._told :]:
                response = await self._work.complete_step(turn.log, step, answer, self._told)
                if response.status != WRITE_STATUS_APPLIED:
                    return response
                self._answered = response
                self._told += 1
            return self._answered

    def _context(self, turn: RecordedTurn, claim: TurnClaim) -> AgentContext:
        job = self._job
        return AgentContext(
            tenant=job.tenant,
            user_id=job.user_id,
            session_id=job.message.session_id,
            turn_id=job.turn_id,
            text=job.message.text,
            history=partial(self._work.messages, turn.log),
            read_after=partial(self._work.messages_after, turn.log),
            findings=claim.findings,
            deadline=claim.deadline.ToMicroseconds() / 1e6,
            put_artifact=partial(self._work.put_artifact, turn.log),
            document_ids=tuple(claim.session.document_ids),
            collection=job.collection,
            messages=since_summary(claim),
            summary_through=job.summary_through_position,
        )


def _most(claim: TurnClaim) -> int:
    """Return how many bytes an answer may have."""
    return claim.answer_bytes or MOST_ANSWER_BYTES


async def _said(agent: Agent, context: AgentContext, turn: RecordedTurn, most: int) -> Answer:
    """Record what the agent says, and return its answer; raises AnswerTooLarge over *most* bytes.

    More would not fit the messages in which it travels: it would come nowhere, and hold up the
    stream that this turn shares with others.
    """
    said = 0
    async with aclosing(agent.run(context)) as events:
        async for event in events:
            # A file that begins leaves what was said before it.
            apart = isinstance(event, Answer | TurnFile)
            said = _size(event) + (0 if apart else said)
            if said > most:
                raise AnswerTooLarge(most)
            if isinstance(event, Answer):
                told(event)  # what is no answer is the agent's failure, and not its commit's
                return event
            turn.append(event)
    raise RuntimeError("the agent ended without an answer")


def _size(event: AgentEvent) -> int:
    if isinstance(event, TurnFile):
        return 0
    size = len(event.text.encode())
    if isinstance(event, Answer):
        size += sum(citation.ByteSize() for citation in event.citations)
        size += event.findings.ByteSize() if event.findings is not None else 0
        size += sum(len(one.instructions.encode()) for one in event.hand_on)
    return size
