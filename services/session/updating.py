"""Changes of a session's own fields. Pure."""

from collections.abc import Sequence

from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.budget_pb2 import Spending
from services.runtime.errors import InvalidArgument
from services.runtime.first_outcome import NotCarriedOut
from services.session.errors import DocumentSetFixed, RevisionMismatch, SessionEnded
from services.session.ids import document_set_id
from services.session.model import Draft, timestamp
from services.session.operations import done_before, once, request_hash
from services.session.spending import keeps_spending, set_budget

FIELDS = ("title", "mode", "metadata", "document_ids", "budget")


def check_mask(request: pb.UpdateSessionRequest) -> None:
    """Raise InvalidArgument unless the mask names fields that can be changed."""
    paths = request.update_mask.paths
    if not paths or not set(paths) <= set(FIELDS):
        problem = f"must name at least one of {', '.join(FIELDS)}, and nothing else"
        raise InvalidArgument("update_mask", problem)


def needs_accounts(draft: Draft, request: pb.UpdateSessionRequest) -> bool:
    """Whether the change is a budget, and what the session has spent of it is not kept yet."""
    sets = "budget" in request.update_mask.paths and request.HasField("budget")
    session = draft.session
    here = session is not None and not session.tombstone
    return sets and here and not keeps_spending(draft.record.session, request.budget)


def update(
    draft: Draft, request: pb.UpdateSessionRequest, spent: Spending | None = None
) -> pb.Session:
    """Change the fields that the mask names; a request that was carried out changes nothing.

    *spent* is what the session has consumed, if the accounts were needed. Raises RevisionMismatch,
    DocumentSetFixed and RequestIdTaken.
    """
    once(draft, request, lambda: _update(draft, request, spent))
    return draft.record.session


def updated_before(draft: Draft, request: pb.UpdateSessionRequest) -> pb.Session:
    """Change nothing; raises NotCarriedOut unless this request was carried out before."""
    if not done_before(draft, request_hash(request)):
        raise NotCarriedOut
    return draft.record.session


def _update(draft: Draft, request: pb.UpdateSessionRequest, spent: Spending | None) -> None:
    session = draft.record.session
    if request.expected_revision not in (0, session.revision):
        raise RevisionMismatch(session.session_id, request.expected_revision, session.revision)
    named = set(request.update_mask.paths)
    if "title" in named:
        session.title = request.title
    if "mode" in named:
        session.mode = request.mode or pb.SESSION_MODE_DIRECT
    if "metadata" in named:
        session.ClearField("metadata")
        session.metadata.update(request.metadata)
    if "document_ids" in named:
        _set_documents(session, request.document_ids)
    if "budget" in named:
        _set_budget(session, request, spent)
    _use(draft)


def _set_documents(session: pb.Session, document_ids: Sequence[str]) -> None:
    if session.document_set_id and session.document_set_id != document_set_id(document_ids):
        raise DocumentSetFixed(session.session_id)
    session.ClearField("document_ids")
    session.document_ids.extend(document_ids)


def _set_budget(
    session: pb.Session, request: pb.UpdateSessionRequest, spent: Spending | None
) -> None:
    if request.HasField("budget"):
        set_budget(session, request.budget, spent)
    else:
        session.ClearField("budget")
        session.ClearField("spending")


def end(draft: Draft, request: pb.EndSessionRequest) -> pb.Session:
    """Let no more turns begin; what was begun goes on. Raises RequestIdTaken."""
    once(draft, request, lambda: _end(draft))
    return draft.record.session


def _end(draft: Draft) -> None:
    session = draft.record.session
    if not session.HasField("end_time"):
        session.end_time.CopyFrom(timestamp(draft.now_ms))
        _use(draft)


def touch(draft: Draft, request: pb.TouchSessionRequest) -> pb.Session:
    """Note that the session was used now, so that it expires later. Raises RequestIdTaken."""
    once(draft, request, lambda: _use(draft))
    return draft.record.session


def _use(draft: Draft) -> None:
    draft.touch()
    draft.tell_session()


def require_open(record: SessionRecord) -> None:
    """Raise SessionEnded if no turn can begin in the session."""
    if record.session.HasField("end_time"):
        raise SessionEnded(record.session.session_id)


def is_past(session: pb.Session, *, deleted: bool) -> bool:
    """Whether a standing session has to give way to a new one."""
    return deleted or session.HasField("end_time")
