"""Turns that look how documents support an answer."""

from maieutic.v1 import turn_service_pb2 as pb
from services.runtime.errors import InvalidArgument, NotFound
from services.session.errors import TurnNotEnded
from services.session.ids import checked
from services.session.jobs import Jobs
from services.session.model import Caller
from services.session.turns import Turns

MOST_CHARACTERS = 32_768
"""Of an answer: as many as of one that a request brings."""


class Analyses:
    """Begins them. Raises the errors of `errors` and Unavailable."""

    def __init__(self, turns: Turns, jobs: Jobs) -> None:
        self._turns = turns
        self._jobs = jobs

    async def begin(self, caller: Caller, request: pb.AnalyzeRequest, *, anew: bool) -> pb.Turn:
        """Accept the turn, or find what this request id began; see `Turns.begin_job`."""
        checked("session_id", request.session_id)
        text = await self._answer(caller, request) if request.turn_id else request.text
        job = self._jobs.support_of(caller, request, text)
        return await self._turns.begin_job(caller, job, anew=anew)

    async def _answer(self, caller: Caller, request: pb.AnalyzeRequest) -> str:
        """Return what the session's turn has answered, which never changes once it has ended."""
        turn = await self._turns.get(caller, request.turn_id)
        if turn.session_id != request.session_id:
            raise NotFound("turn", f"{request.turn_id} of session {request.session_id}")
        if not turn.HasField("outcome"):
            raise TurnNotEnded(request.turn_id)
        if (size := len(turn.outcome.text)) > MOST_CHARACTERS:
            problem = (
                f"its answer has {size} characters, at most {MOST_CHARACTERS} are analysed: send "
                "a part of it as text"
            )
            raise InvalidArgument("turn_id", problem)
        return turn.outcome.text
