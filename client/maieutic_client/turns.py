"""Turns: one question, one answer."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from maieutic.v1 import turn_service_pb2 as pb
from maieutic.v1.budget_pb2 import Budget
from maieutic.v1.turn_service_pb2_grpc import TurnServiceStub
from maieutic_client.connection import Connection, new_request_id
from maieutic_client.session_ids import SessionLike, session_id_of
from maieutic_client.stream import TurnStream


class Turns:
    """`client.turns`. A session may be given in any of the shapes of `session_id_of`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = TurnServiceStub(connection.channel)

    def stream(
        self,
        session: SessionLike,
        text: str,
        *,
        request_id: str | None = None,
        busy_policy: pb.BusyPolicy.ValueType = pb.BUSY_POLICY_UNSPECIFIED,
        time_budget: timedelta | None = None,
        budget: Budget | None = None,
        agent: str = "",
        timeout: float | None = None,
    ) -> TurnStream:
        """Begin a turn and stream it; nothing is sent before the stream is read.

        *time_budget* is how long the turn may run, *budget* what its calls of models may consume
        together, and *timeout* the seconds that this caller watches it. The same *request_id*
        attaches to the turn that the first call began. *busy_policy* says what happens while
        another turn runs in the session; without it SessionBusy is raised. *agent* names who
        answers; empty is the agent of the session's mode.
        """
        request = pb.StreamTurnRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            text=text,
            busy_policy=busy_policy,
            time_budget=_duration(time_budget),
            budget=budget,
            agent=agent,
        )
        return TurnStream(self._connection, self._stub, begin=request, timeout=timeout)

    def next_question(
        self,
        session: SessionLike,
        *,
        request_id: str | None = None,
        busy_policy: pb.BusyPolicy.ValueType = pb.BUSY_POLICY_UNSPECIFIED,
        time_budget: timedelta | None = None,
        budget: Budget | None = None,
        timeout: float | None = None,
    ) -> TurnStream:
        """Have an agent ask the next question, and stream it; the user says nothing.

        Everything else is as with `stream`.
        """
        request = pb.NextQuestionRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            busy_policy=busy_policy,
            time_budget=_duration(time_budget),
            budget=budget,
        )
        return TurnStream(self._connection, self._stub, begin=request, timeout=timeout)

    def analyze(
        self,
        session: SessionLike,
        *,
        text: str = "",
        turn_id: str = "",
        collection: str = "",
        request_id: str | None = None,
        time_budget: timedelta | None = None,
        budget: Budget | None = None,
        timeout: float | None = None,
    ) -> TurnStream:
        """Look how documents support an answer: *text*, or the answer of the turn *turn_id*.

        The documents are those of *collection*, or, without one, the session's. The report is in
        the outcome: `(await stream.result()).findings.support`. Everything else is as with
        `stream`, but it runs beside the conversation and is never busy.
        """
        request = pb.AnalyzeRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            collection=collection,
            time_budget=_duration(time_budget),
            budget=budget,
        )
        if turn_id:
            request.turn_id = turn_id
        elif text:
            request.text = text
        return TurnStream(self._connection, self._stub, begin=request, timeout=timeout)

    def generate_code(
        self,
        session: SessionLike,
        instructions: str = "",
        *,
        request_id: str | None = None,
        time_budget: timedelta | None = None,
        budget: Budget | None = None,
        timeout: float | None = None,
    ) -> TurnStream:
        """Have an agent write files from the session's specifications, and stream it.

        *instructions* say what is wanted besides. The turn runs beside the conversation. While it
        does, `stream.files` has what there is so far, and `stream.text` the file in progress; the
        outcome's artifacts are what stands. Everything else is as with `stream`.
        """
        request = pb.GenerateCodeRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            instructions=instructions,
            time_budget=_duration(time_budget),
            budget=budget,
        )
        return TurnStream(self._connection, self._stub, begin=request, timeout=timeout)

    async def begin(
        self,
        session: SessionLike,
        text: str,
        *,
        request_id: str | None = None,
        busy_policy: pb.BusyPolicy.ValueType = pb.BUSY_POLICY_UNSPECIFIED,
        time_budget: timedelta | None = None,
        budget: Budget | None = None,
        agent: str = "",
    ) -> pb.Turn:
        """Begin a turn without watching it."""
        request = pb.BeginTurnRequest(
            session_id=session_id_of(session),
            request_id=request_id or new_request_id(),
            text=text,
            busy_policy=busy_policy,
            time_budget=_duration(time_budget),
            budget=budget,
            agent=agent,
        )
        return (await self._connection.call(self._stub.BeginTurn, request)).turn

    def watch(self, turn_id: str, *, cursor: str = "", timeout: float | None = None) -> TurnStream:
        """Stream a turn from after *cursor* on, or from its start.

        From a cursor on, `stream.text` holds only what came since, until a snapshot, a gap or the
        outcome.
        """
        return TurnStream(
            self._connection, self._stub, turn_id=turn_id, cursor=cursor, timeout=timeout
        )

    async def get(self, turn_id: str) -> pb.Turn:
        """Return a turn as it stands, live or archived; raises NotFound."""
        request = pb.GetTurnRequest(turn_id=turn_id)
        return (await self._connection.call(self._stub.GetTurn, request)).turn

    async def cancel(self, turn_id: str, *, request_id: str | None = None) -> pb.Turn:
        """Stop a turn and return it; the outcome of one that has ended stands."""
        request = pb.CancelTurnRequest(turn_id=turn_id, request_id=request_id or new_request_id())
        return (await self._connection.call(self._stub.CancelTurn, request)).turn


def _duration(given: timedelta | None) -> Duration | None:
    if given is None:
        return None
    duration = Duration()
    duration.FromTimedelta(given)
    return duration
