"""What agents have found in a session: merged, resolved, withdrawn. Pure.

Everything has an id that is derived from where it comes from, so that keeping it again, after a
retry or from the archive, changes nothing.
"""

from collections.abc import Iterable

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.v1 import specification_pb2 as pb
from maieutic.v1.turn_service_pb2 import Findings
from services.runtime.standing import (
    decision_id,
    open_conflicts,
    part_of,
    standing_specifications,
    withdraw_losers,
)
from services.session import summaries
from services.session.errors import ConflictResolved, conflict_not_found
from services.session.ids import derived
from services.session.model import Draft, answer_id, timestamp, user_message_id

MOST_SPECIFICATIONS = 500
MOST_CONFLICTS = 200
MOST_QUESTIONS = 200
MOST_NAME_CHARACTERS = 64
MOST_TEXT_CHARACTERS = 1000
MOST_BYTES = 1_200_000
"""So that all that a session may know fits the messages in which it travels, in any script: that
of a claim has the window beside it, and what earlier steps have found."""


def named(found: Findings, turn: TurnRecord, now_ms: int) -> Findings:
    """Return what an agent has found under ids of its own, said in the turn it belongs to."""
    origin = turn.job.parent_turn_id or turn.job.turn_id
    earlier = sum(len(step.findings.specifications) for step in turn.finished_steps)
    result, now = Findings(), timestamp(now_ms)
    for number, specification in enumerate(found.specifications, start=earlier + 1):
        kept = result.specifications.add()
        kept.CopyFrom(specification)
        kept.category = specification.category[:MOST_NAME_CHARACTERS]
        kept.key = specification.key[:MOST_NAME_CHARACTERS]
        kept.value = specification.value[:MOST_TEXT_CHARACTERS]
        kept.specification_id = f"{turn.job.turn_id}.{number:03}"
        kept.message_id = specification.message_id or user_message_id(origin)
        kept.turn_id = origin
        kept.create_time.CopyFrom(now)
    for conflict in found.conflicts:
        sides = (conflict.first.specification_id, conflict.second.specification_id)
        seen = result.conflicts.add()
        seen.CopyFrom(conflict)
        seen.explanation = conflict.explanation[:MOST_TEXT_CHARACTERS]
        seen.suggestion = conflict.suggestion[:MOST_TEXT_CHARACTERS]
        seen.conflict_id = conflict_id(*sides)
        seen.turn_id = origin
        seen.create_time.CopyFrom(now)
    for question in found.questions:
        result.questions.add(
            question_id=origin,
            message_id=answer_id(origin),
            text=question.text[:MOST_TEXT_CHARACTERS],
            create_time=now,
        )
    if found.HasField("support"):
        result.support.CopyFrom(found.support)
    if found.HasField("manifest"):
        result.manifest.CopyFrom(found.manifest)
    if found.HasField("summary"):
        result.summary.CopyFrom(summaries.named(found.summary, turn, now_ms))
    return result


def conflict_id(one: str, other: str) -> str:
    """Return the id of the conflict between two specifications, in whatever order they come."""
    return derived(one, *sorted((one, other)))


def keep(draft: Draft, found: Findings) -> None:
    """Add what the session does not know yet, under its next revision.

    What says the same as a specification that holds is not added, nor is a conflict whose sides
    are not both there. Beyond the limits the session keeps what it has.
    """
    kept = draft.kept_annotations.findings
    before = kept.ByteSize()
    for specification in found.specifications:
        room = len(kept.specifications) < MOST_SPECIFICATIONS and _fits(kept, specification)
        if room and not _known(kept, specification):
            kept.specifications.append(specification)
    for conflict in found.conflicts:
        room = len(kept.conflicts) < MOST_CONFLICTS
        seen = _between_standing(kept, conflict) if room else None
        if seen is not None and _fits(kept, seen):
            kept.conflicts.append(seen)
    asked = {question.question_id for question in kept.questions}
    kept.questions.extend(one for one in found.questions if one.question_id not in asked)
    del kept.questions[:-MOST_QUESTIONS]
    replaced = found.HasField("summary") and summaries.keep(draft, found.summary)
    if replaced or kept.ByteSize() != before:
        _changed(draft)


def show_as_kept(found: Findings, kept: Findings) -> None:
    """Leave of the conflicts that an agent has found those that are to be decided, each whole.

    It may name what is none: with sides that nobody knows, or decided before.
    """
    told = {one.conflict_id for one in found.conflicts}
    open_ones = [one for one in open_conflicts(kept) if one.conflict_id in told]
    found.ClearField("conflicts")
    found.conflicts.extend(open_ones)


def _fits(kept: Findings, new: pb.Specification | pb.Conflict) -> bool:
    return kept.ByteSize() + new.ByteSize() <= MOST_BYTES


def _known(kept: Findings, new: pb.Specification) -> bool:
    return any(
        old.specification_id == new.specification_id
        or (not old.withdrawn and _said(old) == _said(new))
        for old in kept.specifications
    )


def _said(specification: pb.Specification) -> tuple[str, str, str]:
    value = " ".join(specification.value.casefold().split())
    return specification.category, specification.key, value


def _between_standing(kept: Findings, conflict: pb.Conflict) -> pb.Conflict | None:
    """Return the conflict with both sides as they stand; None if there is nothing to decide."""
    if any(old.conflict_id == conflict.conflict_id for old in kept.conflicts):
        return None
    standing = {one.specification_id: one for one in standing_specifications(kept)}
    first = standing.get(conflict.first.specification_id)
    second = standing.get(conflict.second.specification_id)
    if first is None or second is None or first is second:
        return None
    seen = pb.Conflict()
    seen.CopyFrom(conflict)
    seen.first.CopyFrom(first)
    seen.second.CopyFrom(second)
    return seen


def find_conflict(draft: Draft, wanted: str) -> pb.Conflict:
    """Return the session's conflict of that id; raises NotFound."""
    for conflict in draft.kept_annotations.findings.conflicts:
        if conflict.conflict_id == wanted:
            return conflict
    raise conflict_not_found(wanted)


def resolve(draft: Draft, wanted: str, resolution: pb.Resolution) -> pb.Conflict:
    """Decide a conflict, once and for all. Raises NotFound and ConflictResolved."""
    kept, conflict = draft.kept_annotations.findings, find_conflict(draft, wanted)
    if conflict.HasField("resolution"):
        raise ConflictResolved(wanted)
    conflict.resolution.CopyFrom(resolution)
    conflict.resolution.resolve_time.CopyFrom(timestamp(draft.now_ms))
    withdraw_losers(kept)
    if resolution.kind == pb.RESOLUTION_KIND_REPLACE:
        kept.specifications.add(
            specification_id=decision_id(conflict),
            category=conflict.first.category,
            key=conflict.first.key,
            value=resolution.value,
            confidence=1.0,
            message_id=conflict.second.message_id,
            turn_id=conflict.turn_id,
            create_time=timestamp(draft.now_ms),
        )
    _changed(draft)
    return conflict


def forget(draft: Draft, job: RunTurn) -> None:
    """Take out what was found in a turn, as if it had never been asked."""
    kept, turn_id = draft.kept_annotations.findings, job.turn_id
    withdrawn = summaries.forget(draft, job.message.position)
    left = part_of(kept, lambda one: one.turn_id != turn_id)
    left.questions.extend(one for one in kept.questions if one.question_id != turn_id)
    if kept.HasField("summary"):
        left.summary.CopyFrom(kept.summary)
    if withdrawn or left != kept:
        kept.CopyFrom(left)
        _changed(draft)


def _changed(draft: Draft) -> None:
    draft.annotate()
    draft.tell_session()


def together(parts: Iterable[Findings]) -> Findings:
    """Return several findings as one; of reports the last, which goes on from those before it."""
    whole = Findings()
    for part in parts:
        if part.HasField("support"):
            whole.ClearField("support")
        whole.MergeFrom(part)
    return whole


def hand_on(turn: TurnRecord, known: Findings) -> None:
    """Add to what the session knows what the turn's steps have found for each other alone."""
    for step in turn.finished_steps:
        if step.findings.HasField("support"):
            known.support.CopyFrom(step.findings.support)
        if step.findings.HasField("manifest"):
            known.manifest.CopyFrom(step.findings.manifest)
