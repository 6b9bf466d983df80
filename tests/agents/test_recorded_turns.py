from services.agents.ports import Delta
from services.agents.recorded_turns import RecordedTurn, RecordedTurns
from services.agents.recorder import MOST_SECONDS, RecorderOptions
from services.agents.turn_log import TurnLog


class Runner:
    """Whoever runs the turns; nothing becomes of their leases here."""

    def fenced(self) -> None: ...

    def missing(self) -> None: ...

    def silent(self) -> None: ...


def held(turns: RecordedTurns, turn_id: str) -> RecordedTurn:
    turn = RecordedTurn(TurnLog(turn_id=turn_id, claim_id="c", fence=1), Runner(), turns)
    turns.add(turn)
    return turn


async def test_only_turns_with_something_to_send_are_looked_at_the_longest_waiting_first() -> None:
    turns, stream = RecordedTurns(), object()
    one, _, three = (held(turns, name) for name in "abc")
    for turn in (three, one, three):
        turn.append(Delta(text="word "))
    assert [turns.next_changed() for _ in range(2)] == [three, one]
    assert not turns.changed
    sent = three.to_send(stream)
    assert sent is not None
    three.append(Delta(text="more"))
    assert turns.next_changed() is three
    assert three.to_send(stream) is None  # one batch under way at a time
    three.acknowledged(sent)
    assert turns.next_changed() is three


async def test_a_new_stream_looks_at_every_turn_and_sends_again_what_is_under_way() -> None:
    turns = RecordedTurns()
    one, two = held(turns, "a"), held(turns, "b")
    one.append(Delta(text="word"))
    sent = turns.next_changed().to_send(object())
    turns.look_at_all()
    assert list(turns.changed) == [one, two]
    assert one.to_send(object()) is sent


async def test_what_is_left_of_a_turn_that_is_over_is_not_sent() -> None:
    turns, stream = RecordedTurns(), object()
    one = held(turns, "a")
    one.append(Delta(text="word"))
    sent = turns.next_changed().to_send(stream)
    one.append(Delta(text="more"))
    turns.remove(one)
    assert sent is not None
    one.acknowledged(sent)
    assert not turns.changed


def test_batches_of_many_turns_are_further_apart_within_a_bound() -> None:
    options = RecorderOptions(flush_interval=0.02)
    none, some, many, most = [options.interval(turns) for turns in (0, 100, 200, 100_000)]
    assert none == 0.02 < some < many < most == 0.02 + MOST_SECONDS
