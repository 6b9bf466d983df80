"""What of a session's findings holds, and what the user has still to decide. Pure."""

from collections.abc import Callable, Sequence

from maieutic.v1.specification_pb2 import (
    RESOLUTION_KIND_KEEP_FIRST,
    RESOLUTION_KIND_KEEP_SECOND,
    RESOLUTION_KIND_REPLACE,
    Conflict,
    Specification,
)
from maieutic.v1.turn_service_pb2 import Findings


def standing_specifications(found: Findings) -> Sequence[Specification]:
    """Return what the user has settled and not given up, in the order in which it was found."""
    return [one for one in found.specifications if not one.withdrawn]


def open_conflicts(found: Findings) -> Sequence[Conflict]:
    """Return the conflicts that are undecided, and of which both sides hold."""
    standing = {one.specification_id for one in standing_specifications(found)}
    return [
        one for one in found.conflicts if not one.HasField("resolution") and _sides(one) <= standing
    ]


def decision_id(conflict: Conflict) -> str:
    """Return the id of the specification that takes the place of both sides, if one does."""
    return f"{conflict.conflict_id}.r"


def withdraw_losers(found: Findings) -> None:
    """Let hold what no resolution of these findings withdraws, and nothing else."""
    lost = frozenset[str]().union(*map(_losers, found.conflicts))
    for specification in found.specifications:
        specification.withdrawn = specification.specification_id in lost


def part_of(found: Findings, belongs: Callable[[Specification], bool]) -> Findings:
    """Return the specifications that *belong* to a part, their conflicts and what was decided.

    What was withdrawn for something that is no part of it holds there.
    """
    decisions = {decision_id(one) for one in found.conflicts}
    chosen = {one.specification_id for one in found.specifications if belongs(one)} - decisions
    part = Findings()
    for conflict in found.conflicts:
        if _sides(conflict) <= chosen:
            part.conflicts.append(conflict)
            chosen.add(decision_id(conflict))
    part.specifications.extend(
        one for one in found.specifications if one.specification_id in chosen
    )
    withdraw_losers(part)
    return part


def _losers(conflict: Conflict) -> frozenset[str]:
    first, second = conflict.first.specification_id, conflict.second.specification_id
    return {
        RESOLUTION_KIND_KEEP_FIRST: frozenset({second}),
        RESOLUTION_KIND_KEEP_SECOND: frozenset({first}),
        RESOLUTION_KIND_REPLACE: frozenset({first, second}),
    }.get(conflict.resolution.kind, frozenset())


def _sides(conflict: Conflict) -> set[str]:
    return {conflict.first.specification_id, conflict.second.specification_id}
