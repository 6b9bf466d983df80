"""What workers do when the session service goes away, forgets, or has given the turn to others."""

import asyncio

import pytest

from services.agents import publishing
from services.agents.adapters.scripted import Script, ScriptedModel
from services.agents.recorder import RecorderOptions
from services.runtime.bus import BusUnavailable, OutgoingMessage
from services.runtime.errors import Internal, Unauthenticated
from services.runtime.memory import MemoryBus
from services.runtime.topology import maieutic_topology
from tests.agents.held_model import HeldModel
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import Office, office
from tests.waiting import wait_until

TEXT = "one two three four five six seven eight nine ten eleven twelve"


def slow_model() -> ScriptedModel:
    return ScriptedModel(Script(text=TEXT, delay=0.03))


def held_model() -> HeldModel:
    """Return a model that has no end before it may."""
    model = HeldModel(Script(text=TEXT, delay=0.03))
    model.going.clear()
    return model


async def answered(place: Office, turn_id: str) -> str:
    """Wait for the outcome; returns what a watcher has seen by then."""
    finished = await place.finished()
    await place.idle()
    assert finished.outcome.text == TEXT
    return place.store.turns[turn_id].text


async def test_a_fenced_turn_stops_its_model_call_at_the_next_heartbeat_and_is_acked() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3))
    async with office(model, recorder=RecorderOptions()) as place:
        turn_id = await place.ask("Stop me.")
        await place.streaming(turn_id)
        before = len(place.store.requests)
        place.store.fence_off(turn_id)
        await wait_until(lambda: turn_id in model.cancelled)
        # The rest of the text may come before it.
        assert len(place.store.requests) <= before + 2
        await place.idle()
        assert place.waiting_jobs == 0
        assert place.outcomes == 0
        assert place.store.calls["CompleteTurn"] == 0


async def test_a_turn_that_is_stopped_while_it_asks_for_its_budget_calls_no_model() -> None:
    model = ScriptedModel()
    async with office(model) as place:
        going = place.store.holding_reservations = asyncio.Event()
        turn_id = await place.ask("Stop me.")
        await wait_until(lambda: place.store.calls["ReserveBudget"] == 1)
        place.store.fence_off(turn_id)
        await place.idle()
        going.set()
        assert model.calls[turn_id] == 0
        # What may have been reserved all the same is given back.
        (told,) = place.store.settled
        assert [(one.input_tokens, one.output_tokens) for one in told.usage] == [(0, 0)]


async def test_a_turn_that_the_store_lost_is_claimed_again_and_keeps_its_text() -> None:
    model = held_model()
    async with office(model) as place:
        turn_id = await place.ask("Forget me not.")
        await place.streaming(turn_id)
        before = place.store.lose(turn_id)
        model.going.set()
        assert await answered(place, turn_id) == TEXT
        after = place.store.turns[turn_id]
        assert after.fence > before.fence
        assert after.log[0].HasField("snapshot")
        assert len(set(place.store.claim_ids)) == 1
        assert model.calls[turn_id] == 1


async def test_an_answer_about_an_earlier_claim_does_not_stop_the_turn() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3, text=TEXT))
    async with office(model, grace=0.2) as place:
        turn_id = await place.ask("Forget me not.")
        await place.streaming(turn_id)
        allowed = place.store.batches_allowed = asyncio.Semaphore(0)
        place.store.lose(turn_id)
        await asyncio.sleep(0.3)  # some heartbeats of the first claim are under way now
        allowed.release()
        await wait_until(lambda: len(place.store.claim_ids) == 2)
        for _ in range(100):
            allowed.release()
        await wait_until(lambda: place.store.turns[turn_id].text != "")
        assert turn_id not in model.cancelled
        assert place.running.worker.busy == 1


async def test_a_turn_lost_before_its_commit_is_claimed_again_and_committed() -> None:
    model = ScriptedModel(Script(text=TEXT))
    async with office(model, recorder=RecorderOptions(heartbeat_interval=5)) as place:
        place.store.lose_at_complete = True
        turn_id = await place.ask("Forget me now.")
        assert await answered(place, turn_id) == TEXT
        assert len(set(place.store.claim_ids)) == 1
        assert model.calls[turn_id] == 1


async def test_a_heartbeat_fenced_by_our_own_commit_does_not_hide_the_outcome() -> None:
    store = LiveStore(holding_completes=asyncio.Event())
    async with office(ScriptedModel(Script(text=TEXT)), store=store) as place:
        turn_id = await place.ask("Slow answer?")
        await wait_until(lambda: (t := store.turns.get(turn_id)) is not None and bool(t.finished))
        beats = len(store.requests)
        await wait_until(lambda: len(store.requests) > beats + 1)
        assert store.holding_completes is not None
        store.holding_completes.set()
        assert await answered(place, turn_id) == TEXT


async def test_a_lost_turn_that_cannot_be_claimed_again_goes_back_to_its_queue() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3))
    async with office(model) as place:
        turn_id = await place.ask("Forget me.")
        await place.streaming(turn_id)
        place.store.refusing = Internal("a bug")
        place.store.lose(turn_id)
        await wait_until(lambda: turn_id in model.cancelled)
        model.default = Script(text=TEXT)
        place.store.refusing = None
        assert await answered(place, turn_id) == TEXT
        assert model.calls[turn_id] == 2


async def test_workers_whose_key_is_not_known_yet_keep_their_jobs() -> None:
    store = LiveStore(refusing=Unauthenticated("no key of this service"))
    async with office(ScriptedModel(Script(text=TEXT)), store=store) as place:
        turn_id = await place.ask("Do you know me?")
        await wait_until(lambda: store.calls["ClaimTurn"] >= 3)
        store.refusing = None
        assert await answered(place, turn_id) == TEXT


async def test_a_lost_turn_that_others_hold_by_now_is_given_up() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3))
    async with office(model) as place:
        turn_id = await place.ask("Forget me.")
        await place.streaming(turn_id)
        lost = place.store.lose(turn_id)
        rebuilt = place.store.put(lost.job)
        rebuilt.claim_id, rebuilt.lease_end = "theirs", float("inf")
        await wait_until(lambda: turn_id in model.cancelled)
        await place.idle()
        await wait_until(lambda: place.waiting_jobs == 0)
        assert rebuilt.claim_id == "theirs"


@pytest.mark.parametrize("swallowed", [1, 3])
async def test_answers_lost_with_the_stream_lose_and_double_no_text(swallowed: int) -> None:
    model = slow_model()
    async with office(model) as place:
        place.store.swallowed_replies = swallowed
        turn_id = await place.ask("Cut me off.")
        assert await answered(place, turn_id) == TEXT
        assert place.store.streams == 1 + swallowed
        assert model.calls[turn_id] == 1


async def test_a_session_service_that_is_away_for_a_while_costs_no_second_call() -> None:
    model = held_model()
    async with office(model) as place:
        turn_id = await place.ask("Be patient.")
        await place.streaming(turn_id)
        place.store.away = True
        tries = place.store.calls["RecordTurnEvents"]
        await wait_until(lambda: place.store.calls["RecordTurnEvents"] >= tries + 3)
        assert place.running.worker.busy == 1
        place.store.away = False
        model.going.set()
        assert await answered(place, turn_id) == TEXT
        assert model.calls[turn_id] == 1
        assert len(place.store.claim_ids) == 1


async def test_a_claim_waits_for_the_session_service_and_keeps_its_id() -> None:
    store = LiveStore(away=True)
    async with office(ScriptedModel(Script(text=TEXT)), store=store) as place:
        turn_id = await place.ask("Are you back?")
        await wait_until(lambda: store.calls["ClaimTurn"] >= 2)
        store.away = False
        assert await answered(place, turn_id) == TEXT
        assert len(set(store.claim_ids)) == 1


async def test_a_stream_that_answers_nothing_is_opened_anew() -> None:
    recorder = RecorderOptions(heartbeat_interval=0.05, reply_timeout=0.2, reconnect_pause=0.05)
    async with office(slow_model(), recorder=recorder) as place:
        place.store.mute = True
        turn_id = await place.ask("Hello?")
        await wait_until(lambda: place.store.streams >= 2)
        place.store.mute = False
        assert await answered(place, turn_id) == TEXT


async def test_long_silence_stops_the_call_and_hands_the_job_back() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3, fail_times=1))
    recorder = RecorderOptions(
        heartbeat_interval=0.05, reply_timeout=0.1, silence=0.4, reconnect_pause=0.05
    )
    async with office(model, recorder=recorder, store=LiveStore(lease=0.0)) as place:
        turn_id = await place.ask("Hello?")
        await place.streaming(turn_id)
        place.store.mute = True
        await wait_until(lambda: turn_id in model.cancelled)
        place.store.mute = False
        assert (await place.finished()).job.turn_id == turn_id
        # On a busy machine the next call may hear nothing for so long, too.
        assert model.calls[turn_id] >= 2


async def test_leaving_lets_running_turns_finish() -> None:
    model = slow_model()
    async with office(model, grace=10.0) as place:
        turn_id = await place.ask("Let me finish.")
        await place.streaming(turn_id)
        await place.stop()
        assert place.outcomes == 1
        assert place.waiting_jobs == 0
        assert place.store.turns[turn_id].text == TEXT


async def test_leaving_hands_back_what_does_not_finish_without_counting_the_attempt() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3))
    async with office(model, grace=2.0) as place:
        turn_id = await place.ask("Never mind.")
        await place.streaming(turn_id)
        await place.stop()
        turn = place.store.turns[turn_id]
        assert (turn.attempt, turn.claim_id) == (0, "")
        assert place.store.calls["ReleaseTurn"] == 1
        assert turn_id in model.cancelled
        assert place.waiting_jobs == 0  # the clock of the turn publishes it again


async def test_leaving_without_a_session_service_gives_the_job_back_to_its_queue() -> None:
    model = ScriptedModel(Script(fail="hang", fail_after=3))
    async with office(model, grace=0.6) as place:
        turn_id = await place.ask("Never mind.")
        await place.streaming(turn_id)
        place.store.away = True
        await place.stop()
        assert place.waiting_jobs == 1


async def test_jobs_that_were_not_started_stay_in_their_queue_on_leaving() -> None:
    model = ScriptedModel(Script(fail="hang"))
    async with office(model, grace=2.0, interactive_turns=1) as place:
        first = await place.ask("First.")
        await wait_until(lambda: model.calls[first] == 1)
        await place.ask("Second.")
        await place.stop()
        assert place.waiting_jobs == 1
        assert len(model.calls) == 1


class Unconfirmed(MemoryBus):
    """Stores the first outcome and loses its confirm."""

    def __init__(self) -> None:
        super().__init__(maieutic_topology())
        self.published: list[str] = []

    async def publish(self, message: OutgoingMessage, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - the port's
        await super().publish(message, timeout=timeout)
        if message.exchange == "results":
            self.published.append(message.message_id)
            if len(self.published) == 1:
                raise BusUnavailable("the confirm is lost")


async def test_an_outcome_that_is_not_confirmed_is_published_again_under_the_same_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "LONGEST_PAUSE", 0.1)
    bus = Unconfirmed()
    async with office(ScriptedModel(Script(text=TEXT)), bus=bus) as place:
        turn_id = await place.ask("Did you get that?")
        await wait_until(lambda: len(bus.published) == 2)
        await place.idle()
        assert len(set(bus.published)) == 1
        assert bus.published[0].startswith(turn_id)
        assert place.store.calls["ClaimTurn"] == 1


async def test_an_outcome_is_published_once_the_broker_is_back() -> None:
    model = held_model()
    async with office(model) as place:
        turn_id = await place.ask("Is the broker there?")
        await place.streaming(turn_id)
        with place.bus.outage():
            model.going.set()
            await wait_until(lambda: place.store.turns[turn_id].finished is not None)
            assert place.outcomes == 0
        assert await answered(place, turn_id) == TEXT
