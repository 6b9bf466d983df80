"""How soon a Socratic question comes, beside the same three calls one after the other."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from bench.agents.site import Site, deployed
from bench.load import median
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC, Session
from maieutic.v1.specification_pb2 import Specification
from maieutic.v1.turn_service_pb2 import Findings
from services.agents.adapters.claude import claude
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.agents.conflict import ConflictAgent
from services.agents.agents.context import ContextAgent
from services.agents.agents.socratic import SocraticAgent
from services.agents.ports import Agent, AgentContext, Author, Delta, ModelMessage
from services.agents.prompts import load_prompt

FIRST_SECONDS = 1.0
AT_ONCE = 1000
"""Words in a piece: the whole answer comes with its first word, so that waiting for the whole of
the first two calls costs the chain as little as it can."""
EQUAL = {"first_delay": FIRST_SECONDS, "words": AT_ONCE}
SAID = "It has to run on one small machine."
KNOWN = (("storage", "database", "SQLite"), ("users", "most", "20"))
SETTLE_SECONDS = 60.0
FINISHED = "SELECT count(*) AS number FROM turns WHERE state = 'COMPLETED'"


async def measure_socratic(rounds: int) -> Mapping[str, float]:
    """Return the median times until the first word of the question, both ways."""
    async with deployed() as site:
        session = await _prepared(site)
        await site.claude.follow([*_answers(), EQUAL])
        first = len(KNOWN) + 1
        beside = [await _ask(site, session, turn) for turn in range(first, first + rounds)]
        if (calls := len(await site.claude.requests())) != 3 * rounds:
            raise RuntimeError(f"{rounds} turns made {calls} calls, not three each")
        in_turn = [await _in_sequence(site.claude.url) for _ in range(rounds)]
    return {
        "socratic_first_ms": median([1000 * seconds for seconds in beside]),
        "socratic_sequence_first_ms": median([1000 * seconds for seconds in in_turn]),
        "socratic_speedup": round(median(in_turn) / median(beside), 2),
    }


async def _prepared(site: Site) -> Session:
    """Return a session that knows two things, so that there is something to compare."""
    session = await site.client.sessions.create(mode=SESSION_MODE_SOCRATIC)
    for turn, known in enumerate(KNOWN, start=1):
        await site.claude.follow(_answers(known))
        await _ask(site, session, turn)
    return session


def _answers(*found: tuple[str, str, str]) -> Sequence[Mapping[str, Any]]:
    """Return answers that fit the forms."""
    names = ("category", "key", "value", "confidence")
    specifications = [dict(zip(names, (*one, 1), strict=True)) for one in found]
    return [
        _answer("context", {"specifications": specifications}),
        _answer("conflict", {"conflicts": list[str]()}),
    ]


def _answer(step: str, form: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"instructed": load_prompt(step, 1).text, "text": json.dumps(form), **EQUAL}


async def _ask(site: Site, session: Session, turn: int) -> float:
    """Say something, as the session's so-manyth turn; returns the seconds until the first word.

    Waits for the analysis, too: until the archive has both turns' ends, and those of all before.
    """
    started, first = time.monotonic(), 0.0
    async with site.client.turns.stream(session, SAID) as stream:
        async for frame in stream:
            if not first and frame.HasField("delta"):
                first = time.monotonic() - started
    async with asyncio.timeout(SETTLE_SECONDS):
        while (await site.stack.rows(FINISHED))[0]["number"] < 2 * turn:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return first


async def _in_sequence(url: str) -> float:
    """Return the seconds until the first word when the agents take turns, without any queue."""
    options = ClaudeOptions(api_key="a key", base_url=url)
    async with claude(options, connections=1) as model:
        agents: Sequence[Agent] = (
            ContextAgent(model, load_prompt("context", 1)),
            ConflictAgent(model, load_prompt("conflict", 1)),
            SocraticAgent(model, load_prompt("socratic", 2)),
        )
        started = time.monotonic()
        for agent in agents:
            async with aclosing(agent.run(_context())) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        return time.monotonic() - started
    raise RuntimeError("no agent has said a word")


def _context() -> AgentContext:
    known = [
        Specification(specification_id=f"s{number}", category=category, key=key, value=value)
        for number, (category, key, value) in enumerate(KNOWN)
    ]
    return AgentContext(
        tenant="acme",
        user_id="ann",
        session_id="session",
        turn_id="turn",
        text=SAID,
        deadline=time.time() + SETTLE_SECONDS,
        document_ids=(),
        put_artifact=_no_artifact,
        findings=Findings(specifications=known),
        messages=(ModelMessage(author=Author.USER, text=SAID),),
        history=_nothing,
        read_after=_nothing_after,
    )


async def _no_artifact(_path: str, _text: str) -> Artifact:
    raise NotImplementedError("no file is written")


async def _nothing(_page: str, _most: int) -> tuple[Sequence[Message], str]:
    return (), ""


async def _nothing_after(_position: int, _most: int) -> Sequence[Message]:
    return ()
