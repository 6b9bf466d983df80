"""What a branch is made of. Pure."""

from collections.abc import Iterable, Sequence

from maieutic.bus.v1.bus_pb2 import SessionAnnotations, SessionChanged
from maieutic.v1.message_pb2 import Message
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2 import Findings
from services.persistence.facts import SESSION_CHANGED, read_fact
from services.persistence.model import Fact
from services.runtime.standing import part_of


def carried(
    branch: Session, archived: Iterable[Message], window: Sequence[Message], window_position: int
) -> Sequence[Message]:
    """Return the branch's messages: copies of the parent's up to the one it was branched at.

    From *window_position* on the window is all there is. None at all if the parent does not have
    that message. A copy has an id of its own, so that the parent's deletion does not touch it, and
    no turn: that is the parent's.
    """
    older = [message for message in archived if message.position < window_position]
    known = {message.message_id: message for message in (*older, *window)}
    point = known.get(branch.parent_message_id)
    if point is None:
        return ()
    ordered = sorted(known.values(), key=lambda message: (message.position, message.message_id))
    parts = [message for message in ordered if 0 < message.position <= point.position]
    return [_copy(branch, message, number) for number, message in enumerate(parts, start=1)]


def _copy(branch: Session, message: Message, number: int) -> Message:
    copy = Message()
    copy.CopyFrom(message)
    copy.origin_message_id = message.message_id
    copy.message_id = f"{branch.session_id}.{number}"
    copy.session_id = branch.session_id
    copy.position = number
    copy.turn_id = ""
    return copy


def found_in(messages: Sequence[Message], findings: Findings) -> Findings:
    """Return what agents have found in the messages that a branch carries along.

    What was found later in the parent is not true of the branch.
    """
    said = {message.origin_message_id for message in messages}
    found = part_of(findings, lambda one: one.message_id in said)
    found.questions.extend(one for one in findings.questions if one.message_id in said)
    if (summary := _covering(messages, findings.summary)) is not None:
        found.summary.CopyFrom(summary)
    return found


def _covering(messages: Sequence[Message], summary: Summary) -> Summary | None:
    """Return the summary as the branch's; None if it covers more than the branch has."""
    copies = {message.origin_message_id: message for message in messages}
    if (through := copies.get(summary.through_message_id)) is None:
        return None
    carried_along = Summary()
    carried_along.CopyFrom(summary)
    carried_along.through_message_id = through.message_id
    carried_along.through_position = carried_along.message_count = through.position
    return carried_along


def fact_of(tenant: str, branch: Session, messages: Sequence[Message], findings: Findings) -> Fact:
    """Return the branch as a session that has these messages and findings."""
    made = Session()
    made.CopyFrom(branch)
    made.message_count = len(messages)
    changed = SessionChanged(tenant=tenant, session=made)
    if findings.ByteSize():
        changed.annotations.CopyFrom(
            SessionAnnotations(revision=branch.revision, findings=findings)
        )
    return read_fact(SESSION_CHANGED, changed.SerializeToString())
