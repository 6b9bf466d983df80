"""An analysis by Claude, at its emulator: a process that dies between two steps pays for one."""

import json
from typing import Any

from maieutic.v1.support_pb2 import VERDICT_SUPPORTED
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from services.agents.agents import claims, verdicts
from tests.conversation.backend import backend
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Rule
from tests.waiting import wait_until

PATIENCE = 60.0
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


def rule(question: str, answer: object, **fields: Any) -> Rule:
    return Rule(contains=question, text=json.dumps(answer), **fields)


def asked(emulator: Emulator, question: str) -> int:
    """Return how many calls of a step came."""
    return sum(question in json.dumps(one.body) for one in emulator.requests)


async def test_a_backend_killed_between_the_steps_lists_the_claims_once() -> None:
    listing, comparing = claims.ASK.text, verdicts.ASK.text
    async with anthropic_emulator() as emulator:
        settings = {"model_claude_api_key": "key", "model_claude_base_url": emulator.url}
        emulator.plan = [rule(listing, LISTED), rule(comparing, JUDGED, breaks="hang", times=1)]
        async with backend(model_kind="claude", **settings) as running:
            async with running.client() as client:
                added = await client.documents.add("manual.md", f"They say: {ANSWER}")
                await client.documents.attach("brand-x", [added.document.document_id])
                session = await client.sessions.create()
                stream = client.turns.analyze(session, text=ANSWER, collection="brand-x")
                await anext(stream)
                await wait_until(lambda: asked(emulator, comparing) == 1, PATIENCE)
                await running.kill9()
                await stream.aclose()
            emulator.plan = [rule(comparing, JUDGED)]
            await running.start()
            async with running.client() as client:
                again = client.turns.watch(stream.turn_id, timeout=PATIENCE)
                outcome = await again.result()
    assert outcome.state == TURN_STATE_COMPLETED
    assert [claim.verdict for claim in outcome.findings.support.claims] == [VERDICT_SUPPORTED]
    assert (asked(emulator, listing), asked(emulator, comparing)) == (1, 2)
    assert [used.step for used in outcome.usage] == [claims.STEP, verdicts.STEP]
    assert outcome.attempts == 2
