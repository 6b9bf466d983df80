"""What was said in a session, for the worker that has a turn of it in its hands."""

from maieutic.session.v1 import turn_work_service_pb2 as pb
from maieutic.v1.session_service_pb2 import (
    MESSAGE_ORDER_NEWEST_FIRST,
    MESSAGE_ORDER_OLDEST_FIRST,
    ListMessagesRequest,
)
from services.session.history import History
from services.session.ids import checked
from services.session.model import LEASED, Caller
from services.session.paging import FORTH
from services.session.ports import SessionStore


class TurnHistory:
    """Lists messages under a claim. Raises the errors of `errors` and Unavailable."""

    def __init__(self, *, store: SessionStore, history: History) -> None:
        self._store = store
        self._history = history

    async def page(self, request: pb.ListTurnMessagesRequest) -> pb.ListTurnMessagesResponse:
        """Return a page if the claim holds."""
        turn = await self._store.turn(checked("turn_id", request.turn_id))
        if turn is None:
            return pb.ListTurnMessagesResponse(status=pb.WRITE_STATUS_MISSING)
        held = (turn.fence, turn.claim_id) == (request.fence, request.claim_id)
        if turn.phase != LEASED or not held:
            return pb.ListTurnMessagesResponse(status=pb.WRITE_STATUS_FENCED)
        # Whose turn it is says the turn, never the worker.
        caller = Caller(tenant=turn.job.tenant, user=turn.job.user_id)
        forth = request.HasField("after_position")
        start = FORTH.token(request.after_position) if forth else ""
        messages, token = await self._history.page(
            caller,
            ListMessagesRequest(
                session_id=turn.job.message.session_id,
                page_size=request.page_size,
                page_token=request.page_token or start,
                order=MESSAGE_ORDER_OLDEST_FIRST if forth else MESSAGE_ORDER_NEWEST_FIRST,
            ),
        )
        return pb.ListTurnMessagesResponse(
            status=pb.WRITE_STATUS_APPLIED,
            messages=messages,
            next_page_token=token,
            oldest_first=forth,
        )
