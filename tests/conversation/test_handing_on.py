"""An answer that hands on what is asked for, by the offline model."""

import asyncio

import pytest
from click.testing import CliRunner

from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_ANALYSIS,
    TURN_KIND_CODE,
    TURN_STATE_COMPLETED,
)
from maieutic_client import Maieutic
from maieutic_client.cli import main
from tests.conversation.backend import Backend

pytestmark = pytest.mark.asyncio(loop_scope="package")

PATIENCE = 30.0


async def test_what_somebody_wants_is_put_down_and_then_written_as_files(client: Maieutic) -> None:
    session = await client.sessions.create()
    said = await client.turns.stream(session, "It must run on SQLite.", timeout=PATIENCE).result()
    (analysis,) = said.handed_on
    assert analysis.kind == TURN_KIND_ANALYSIS
    found = await client.turns.watch(analysis.turn_id, timeout=PATIENCE).result()
    assert [one.value for one in found.findings.specifications] == ["It must run on SQLite."]
    assert [one.value async for one in client.specifications.list(session)] == [
        "It must run on SQLite."
    ]
    asked = await client.turns.stream(session, "Please write the program.").result()
    (code,) = asked.handed_on
    assert code.kind == TURN_KIND_CODE
    written = await client.turns.watch(code.turn_id, timeout=PATIENCE).result()
    assert written.state == TURN_STATE_COMPLETED
    listed = [one async for one in client.artifacts.list(session)]
    assert {one.path for one in listed} == {one.path for one in written.artifacts}
    assert "specifications.json" in {one.path for one in listed}
    assert (await client.turns.get(code.turn_id)).parent_turn_id


async def test_the_command_follows_what_an_answer_hands_on_to_its_end(
    shared: Backend, client: Maieutic
) -> None:
    session = await client.sessions.create()

    async def said(text: str) -> str:
        environ = {"MAIEUTIC_ADDRESS": shared.address, "MAIEUTIC_API_KEY": shared.api_key}
        arguments = ["chat", "--session", session.session_id, text]
        runner = CliRunner(env=environ)
        ended = await asyncio.to_thread(runner.invoke, main, arguments)
        assert ended.exit_code == 0, ended.stderr
        return ended.stderr

    assert f"maieutic specs list {session.session_id}" in await said("It must run on SQLite.")
    assert [one.value async for one in client.specifications.list(session)]
    told = await said("Please write the program.")
    made = [one async for one in client.artifacts.list(session)]
    assert made
    assert f"maieutic artifacts save {made[0].turn_id} FOLDER" in told
    assert all(one.path in told for one in made)


async def test_a_plain_question_begins_nothing_beside_it(client: Maieutic) -> None:
    session = await client.sessions.create()
    answer = await client.turns.stream(session, "What is it to run on?", timeout=PATIENCE).result()
    assert list(answer.handed_on) == []
