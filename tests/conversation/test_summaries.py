"""A conversation that outgrows what agents see, through the whole backend, killed in between."""

import json
from functools import partial

import pytest

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic
from tests.conversation.backend import Backend, scripted_backend
from tests.faults.steps import HANGING
from tests.waiting import wait_until

PATIENCE = 60.0
QUICKLY = json.dumps({"script": {"text": "So.", "fail": ""}})
SUMMARY = "This is the scripted summary of what was said before."
HANGS_ONCE = json.dumps({"text": SUMMARY, **HANGING})
TURNS = 9
"""After so many a summary begins."""


async def test_a_backend_killed_in_a_summary_writes_it_when_it_is_back_and_once() -> None:
    async with scripted_backend(model_script=HANGS_ONCE) as running:
        async with running.client() as client:
            session = await client.sessions.create()
            turns = [await asked(client, session) for _ in range(TURNS)]
            await wait_until(lambda: bool(summaries(running, turns)), PATIENCE)
            await running.kill9()
        await running.start()
        async with running.client() as client:
            # Nobody waits for it.
            turns.append(await asked(client, session))
            await wait_until(partial(has_summary, client, session), PATIENCE)
            summary = await client.specifications.summary(session)
            assert summary is not None
            assert (summary.text, summary.through_position) == (SUMMARY, 8)
            assert summaries(running, turns) == [summary.turn_id] * 2
            shown = await client.turns.get(summary.turn_id)
            assert (shown.outcome.state, shown.outcome.attempts) == (TURN_STATE_COMPLETED, 2)
            said = [message async for message in client.sessions.messages(session)]
            assert len(said) == 2 * (TURNS + 1)


@pytest.mark.asyncio(loop_scope="package")
async def test_what_was_said_first_is_remembered_when_it_is_out_of_sight_also_in_a_branch(
    client: Maieutic,
) -> None:
    session = await client.sessions.create()
    await asked(client, session, "My boat is called Heron.")
    for _ in range(TURNS - 1):
        await asked(client, session, "Well?")
    await wait_until(partial(has_summary, client, session), PATIENCE)
    summary = await client.specifications.summary(session)
    assert summary is not None
    assert summary.message_count == summary.through_position == 8
    *_, latest = [one async for one in client.sessions.messages(session)][::-1]
    branch = await client.sessions.branch(session, latest.message_id)
    for talk in (session, branch):
        kept = await client.specifications.summary(talk)
        assert kept is not None
        assert kept.text == summary.text
        stream = client.turns.stream(talk, "What is my boat called?", timeout=PATIENCE)
        assert "My boat is called Heron." in (await stream.result()).text


async def has_summary(client: Maieutic, session: Session) -> bool:
    return await client.specifications.summary(session) is not None


async def asked(client: Maieutic, session: Session, text: str = QUICKLY) -> str:
    stream = client.turns.stream(session, text, timeout=PATIENCE)
    assert (await stream.result()).state == TURN_STATE_COMPLETED
    return stream.turn_id


def summaries(running: Backend, turns: list[str]) -> list[str]:
    """Return the calls of the model that were for none of these turns."""
    return [turn for turn in running.calls() if turn not in turns]
