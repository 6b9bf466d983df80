"""A job's way through the workers, with a session service that is there."""

import asyncio
import json

from maieutic.v1.message_pb2 import AUTHOR_USER, Message
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TURN_STATE_FAILED
from services.agents.adapters.offline import OfflineModel
from services.agents.adapters.scripted import Script, ScriptedModel
from tests.agents.held_model import HeldModel
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import office
from tests.waiting import wait_until


async def test_a_job_is_answered_and_its_outcome_published_once() -> None:
    model = ScriptedModel(Script(text="Hello there, Ada.", chunks=4))
    async with office(model) as place:
        turn_id = await place.ask("Hello?")
        finished = await place.finished()
        await place.idle()
        assert finished.job.turn_id == turn_id
        assert finished.outcome.state == TURN_STATE_COMPLETED
        assert finished.outcome.text == place.store.turns[turn_id].text == "Hello there, Ada."
        assert [u.model for u in finished.outcome.usage] == ["scripted-1"]
        assert model.calls[turn_id] == 1
        assert (place.outcomes, place.waiting_jobs) == (0, 0)


async def test_deltas_that_come_together_are_recorded_as_few_frames() -> None:
    text = "word " * 500
    async with office(ScriptedModel(Script(text=text))) as place:
        turn_id = await place.ask("Go on.")
        await place.finished()
        turn = place.store.turns[turn_id]
        assert turn.text == text
        assert len(turn.log) < 100


async def test_many_turns_share_few_requests() -> None:
    model = HeldModel(Script(text="a b c d e f", delay=0.01, tells_input=True))
    model.going.clear()
    async with office(model) as place:
        turns = [await place.ask("All together?") for _ in range(60)]
        await wait_until(lambda: model.held == 60)
        model.going.set()  # before the first word of any
        await wait_until(lambda: place.outcomes == 60)
        assert {place.store.turns[t].text for t in turns} == {"a b c d e f"}
        batches = [len(request.events) for request in place.store.requests if request.events]
        assert len(batches) < 60
        assert max(batches) > 10


async def test_a_job_delivered_twice_costs_one_model_call() -> None:
    model = ScriptedModel(Script(delay=0.02))
    async with office(model) as place:
        job = place.job("Only once, please.")
        await place.publish(job)
        await place.streaming(job.turn_id)
        await place.publish(job)
        place.bus.drop_connections()
        await place.finished()
        await place.idle()
        assert model.calls[job.turn_id] == 1
        assert place.store.calls["ClaimTurn"] >= 1
        await wait_until(lambda: place.waiting_jobs == 0)


async def test_a_job_published_again_after_its_turn_ended_publishes_the_outcome_once_more() -> None:
    model = ScriptedModel()
    async with office(model) as place:
        job = place.job("Again?")
        await place.publish(job)
        first = await place.finished()
        await place.idle()
        await place.publish(job)
        assert await place.finished() == first
        assert model.calls[job.turn_id] == 1


async def test_confirms_that_stay_away_make_no_second_call() -> None:
    model = ScriptedModel()
    async with office(model) as place:
        job = place.job("Slow broker?")
        async with asyncio.TaskGroup() as group:
            with place.bus.holding_confirms():
                # The publisher hears nothing and publishes twice, as the clock of the turn would.
                group.create_task(place.publish(job))
                await wait_until(lambda: place.outcomes == 1)
                group.create_task(place.publish(job))
                place.bus.drop_connections()
                assert place.running.worker.busy == 1
        await place.idle()
        await wait_until(lambda: place.waiting_jobs == 0)
        assert model.calls[job.turn_id] == 1


async def test_a_turn_that_another_worker_holds_is_acked_and_left_alone() -> None:
    model = ScriptedModel()
    async with office(model) as place:
        job = place.job("Mine?")
        turn = place.store.put(job)
        turn.claim_id, turn.lease_end = "theirs", float("inf")
        await place.publish(job)
        await wait_until(lambda: place.store.calls["ClaimTurn"] == 1)
        await place.idle()
        assert (model.calls[job.turn_id], place.waiting_jobs, place.outcomes) == (0, 0, 0)


async def test_a_job_that_joins_one_that_was_turned_away_is_claimed_by_itself() -> None:
    model, answer = ScriptedModel(), asyncio.Event()
    async with office(model) as place:
        job, place.store.holding_claims = place.job("Now?"), answer
        turn = place.store.put(job)
        turn.claim_id, turn.lease_end = "theirs", float("inf")
        await place.publish(job)
        await wait_until(lambda: len(place.store.claim_ids) == 1)
        turn.claim_id = ""  # handed back, and published again, while the answer is on its way
        await place.publish(job)
        await wait_until(lambda: place.waiting_jobs == 0)
        answer.set()
        assert (await place.finished()).job.turn_id == job.turn_id
        assert model.calls[job.turn_id] == 1


async def test_a_suspect_job_is_run_like_any_other() -> None:
    async with office() as place:
        job = place.job("Did my worker die?")
        await place.publish(job, "suspect")
        assert (await place.finished()).job.turn_id == job.turn_id


async def test_an_unavailable_model_queues_the_turn_again_with_its_wait() -> None:
    model = ScriptedModel(Script(fail="unavailable", retry_after=7.5, fail_after=2))
    async with office(model) as place:
        turn_id = await place.ask("Anybody there?")
        failure = await place.failure(turn_id)
        assert (failure.reason, failure.retryable) == ("MODEL_UNAVAILABLE", True)
        assert 7500 <= failure.retry_after.ToMilliseconds() <= 8000
        assert (place.waiting_jobs, place.outcomes) == (0, 0)


async def test_a_refusal_is_the_outcome_of_the_turn() -> None:
    async with office(ScriptedModel(Script(fail="refused"))) as place:
        await place.ask("Something bad?")
        outcome = (await place.finished()).outcome
        assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "MODEL_REFUSED")


async def test_a_rejected_request_is_the_outcome_of_the_turn() -> None:
    async with office() as place:
        await place.ask('{"script": {"no_such_field": 1}}')
        outcome = (await place.finished()).outcome
        assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "MODEL_REJECTED")
        assert "no_such_field" in outcome.explanation


async def test_an_agent_that_crashes_may_be_tried_again() -> None:
    async with office(ScriptedModel(Script(fail="crash"))) as place:
        turn_id = await place.ask("Boom?", max_attempts=0)
        failure = await place.failure(turn_id)
        assert (failure.reason, failure.retryable) == ("AGENT_ERROR", True)


async def test_a_spent_time_budget_fails_the_turn_and_stops_the_call() -> None:
    model, budget = ScriptedModel(Script(fail="hang", fail_after=1)), 50
    async with office(model) as place:
        while not model.calls:  # a machine that is busy may need longer to come to the call at all
            budget *= 2
            job = place.job("How long?")
            job.time_budget.FromMilliseconds(budget)
            await place.publish(job)
            outcome = (await place.finished()).outcome
            assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "TIME_BUDGET")
        assert list(model.cancelled) == list(model.calls)


async def test_an_answer_is_committed_though_the_live_store_lost_the_end_of_its_log() -> None:
    model = ScriptedModel(Script(text="Hello there, Ada."))
    async with office(model, store=LiveStore(lose_end_at_complete=True)) as place:
        turn_id = await place.ask("Hello?")
        assert (await place.finished()).outcome.text == "Hello there, Ada."
        assert place.store.turns[turn_id].log[-1].snapshot.text == "Hello there, Ada."
        assert place.store.calls["CompleteTurn"] == 2
        assert model.calls[turn_id] == 1


async def test_a_turn_that_no_agent_takes_fails_with_its_reason() -> None:
    async with office() as place:
        await place.ask("Do what only a later version can.", kind=99)
        assert (await place.finished()).outcome.reason == "NO_AGENT"
        await place.ask("Do what only a later version can.", steps=["divination"])
        assert (await place.finished()).outcome.reason == "NO_AGENT"


async def test_a_job_that_cannot_be_read_is_dead_lettered_with_the_reason() -> None:
    async with office() as place:
        await place.publish_body(b"\xff no job", "broken")
        async with place.bus.consume("dead.v1", prefetch=1) as dead:
            delivery = await anext(dead)
            assert (delivery.dead_reason or "").startswith("unreadable job")


async def test_the_search_is_made_for_the_user_of_the_job_and_cited() -> None:
    store = LiveStore()
    async with office(OfflineModel(), store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon makes the tides."))
        turn_id = await place.ask("What makes the tides?")
        outcome = (await place.finished()).outcome
        assert "The moon makes the tides." in outcome.text
        assert [(c.number, c.document_name) for c in outcome.citations] == [(1, "tides")]
        assert store.turns[turn_id].log[0].notice.code == "SEARCHING"


async def test_a_search_that_is_not_possible_now_queues_the_turn_again() -> None:
    store = LiveStore(document_ids=["d" * 48])
    async with office(store=store) as place:
        await place.retrieval.server.stop(0)
        turn_id = await place.ask("Where?")
        failure = await place.failure(turn_id)
        assert (failure.reason, failure.retryable) == ("SEARCH_UNAVAILABLE", True)


async def test_an_answer_of_exactly_the_limit_is_committed() -> None:
    store = LiveStore(answer_bytes=8)
    async with office(ScriptedModel(Script(text="é é é")), store=store) as place:
        await place.ask("Briefly?")
        assert (await place.finished()).outcome.text == "é é é"


async def test_an_answer_over_the_limit_fails_its_turn_and_holds_up_no_other() -> None:
    store = LiveStore(answer_bytes=8)
    async with office(ScriptedModel(Script(text="é é éa")), store=store) as place:
        turn_id = await place.ask("Briefly?")
        failure = await place.failure(turn_id)
        assert (failure.reason, failure.retryable) == ("ANSWER_TOO_LARGE", False)
        assert "answer_bytes, which is 8" in failure.explanation
        assert len(store.turns[turn_id].text.encode()) <= 8
        await place.ask(json.dumps({"script": {"text": "Yes."}}))
        assert [(await place.finished()).outcome.text for _ in range(2)] == ["", "Yes."]


async def test_one_piece_that_no_message_has_room_for_is_not_sent() -> None:
    """A session service of the version before does not say how much an answer may hold."""
    model = ScriptedModel(Script(text="a" * 5 * 1024 * 1024))
    async with office(model) as place:
        failure = await place.failure(await place.ask("All of it?"))
        assert failure.reason == "ANSWER_TOO_LARGE"
        assert place.store.streams == 1


async def test_citations_count_as_a_part_of_the_answer() -> None:
    store = LiveStore(answer_bytes=60)
    async with office(OfflineModel(), store=store) as place:
        store.document_ids.append(place.add_document("tides", "The moon makes the tides."))
        failure = await place.failure(await place.ask("What makes the tides?"))
        assert failure.reason == "ANSWER_TOO_LARGE"


async def test_the_window_reaches_the_model() -> None:
    store = LiveStore(window=[Message(author=AUTHOR_USER, text="How do tides work?")])
    async with office(OfflineModel(), store=store) as place:
        await place.ask("What did we talk about?")
        assert "How do tides work?" in (await place.finished()).outcome.text
