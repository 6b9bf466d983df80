"""An analysis whose worker dies between two steps, at an emulator of Claude that counts."""

import json
from typing import Any

import pytest

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.support_pb2 import VERDICT_SUPPORTED
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic
from services.agents.agents import claims, verdicts
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Rule
from tests.faults.steps import PATIENCE, archived_turn, frames_of, kinds, until_event
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

ANSWER = "The battery lasts 12 hours."
LISTED = {"claims": [{"text": ANSWER, "quote": ANSWER}]}
JUDGED = {
    "verdicts": [
        {
            "claim": 1,
            "supporting": [{"passage": 1, "quote": "lasts 12 hours"}],
            "contradicting": [],
        }
    ]
}
LISTING, COMPARING = claims.ASK.text, verdicts.ASK.text


def rule(question: str, answer: object, **fields: Any) -> Rule:
    return Rule(contains=question, text=json.dumps(answer), **fields)


def asked(emulator: Emulator, question: str) -> int:
    """Return how many calls of a step came."""
    return sum(question in json.dumps(one.body) for one in emulator.requests)


async def test_a_worker_killed_between_the_steps_lists_the_claims_once(
    stack: RealStack, client: Maieutic, session: Session
) -> None:
    added = await client.documents.add("manual.md", f"They say: {ANSWER}")
    await client.documents.attach("brand-x", [added.document.document_id])
    async with anthropic_emulator() as emulator:
        emulator.plan = [rule(LISTING, LISTED), rule(COMPARING, JUDGED, breaks="hang")]
        claude = {"model_claude_api_key": "key", "model_claude_base_url": emulator.url}
        await stack.replace("agents", model_kind="claude", **claude)
        stream = client.turns.analyze(session, text=ANSWER, collection="brand-x", timeout=PATIENCE)
        async with stream:
            await until_event(stream, "started")
            await wait_until(lambda: asked(emulator, COMPARING) == 1, PATIENCE)
            emulator.plan = [rule(COMPARING, JUDGED)]
            await stack.replace("agents", model_kind="claude", **claude)
            outcome = await stream.result()
        calls = asked(emulator, LISTING), asked(emulator, COMPARING)
    assert calls == (1, 2)
    assert (outcome.state, outcome.attempts) == (TURN_STATE_COMPLETED, 2)
    report = outcome.findings.support
    assert [claim.verdict for claim in report.claims] == [VERDICT_SUPPORTED]
    assert [used.step for used in outcome.usage] == [claims.STEP, verdicts.STEP]
    row = await archived_turn(stack, stream.turn_id)
    assert row == {"state": "COMPLETED", "attempts": 2, "reason": ""}
    assert (await client.turns.get(stream.turn_id)).outcome.findings.support == report
    assert kinds(await frames_of(client, stream.turn_id)).count("outcome") == 1
