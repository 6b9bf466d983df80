"""Whether calls that were made at once were answered as if they had been made one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.session.interleavings.expected import AnyOf, View, World

GONE = ("refused", "SESSION_NOT_FOUND")


class Call(NamedTuple):
    """A method of `World` and of `Callers`, with the request; made twice it is a retry."""

    name: str
    args: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.name}{self.args}"


@dataclass(frozen=True)
class Answered:
    call: Call
    answer: Any


@dataclass
class _Order:
    """A beginning of an order in which the calls may have happened."""

    happened: frozenset[int]
    owed: frozenset[int]
    """Those whose answer tells of the session as it was later."""
    world: World


def worlds_after(worlds: Sequence[World], answered: Sequence[Answered]) -> list[World]:
    """Return every world that some order of the calls explains; none if the answers are wrong."""
    orders = [_Order(frozenset(), frozenset(), world) for world in worlds]
    for _ in answered:
        orders = _distinct(longer for order in orders for longer in _longer(order, answered))
    ends = [world for order in orders if not order.owed for world in _moved(order.world)]
    return _distinct(world for world in ends if world.at_rest)


def _longer(order: _Order, answered: Sequence[Answered]) -> Iterator[_Order]:
    for world in _moved(order.world):
        for number in frozenset(range(len(answered))) - order.happened:
            call, answer = answered[number].call, answered[number].answer
            expected, after = world.after(call.name, call.args)
            owed = order.owed
            if not agrees(answer, expected):
                if not _may_come_later(call, answer, expected):
                    continue
                owed = owed | {number}
            paid = {late for late in owed if _holds(after, answered[late])}
            yield _Order(order.happened | {number}, owed - paid, after)


def _moved(world: World) -> list[World]:
    """Return the world and what it may become without any call."""
    worlds = [world]
    for one in worlds:
        worlds += [other for other in one.by_itself() if other not in worlds]
    return worlds


def _distinct(many: Iterator[Any]) -> list[Any]:
    found: list[Any] = []
    for one in many:
        if one not in found:
            found.append(one)
    return found


def _may_come_later(call: Call, answer: Any, expected: Any) -> bool:
    """Whether a later state may have been answered: after a lost reply, or at the end of a stop."""
    if call.name == "begin":
        return bool(answer == GONE)
    return isinstance(answer, View) and isinstance(expected, View)


def _holds(world: World, late: Answered) -> bool:
    """Whether the world is what the answer tells of."""
    if late.answer == GONE:
        talk = world.talks.get(late.call.args[0])
        return talk is not None and talk.deleted
    talk = world.talks.get(late.answer.session_id)
    return talk is not None and not talk.deleted and bool(talk.view == late.answer)


def agrees(answer: Any, expected: Any) -> bool:
    """Whether the answer is the expected one."""
    if isinstance(expected, AnyOf):
        return answer in expected.answers
    return bool(answer == expected)
