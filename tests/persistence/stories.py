"""What happened in conversations, as messages on the bus: made for the archive's tests."""

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message as Protobuf

from maieutic.bus.v1.bus_pb2 import (
    RunTurn,
    SessionChanged,
    SessionDeleted,
    TurnAccepted,
    TurnFinished,
    TurnUsed,
)
from maieutic.v1 import turn_service_pb2 as turn_pb
from maieutic.v1.message_pb2 import AUTHOR_AGENT, AUTHOR_USER, Message
from maieutic.v1.session_service_pb2 import SESSION_MODE_DIRECT, Session
from services.persistence.facts import read_fact
from services.persistence.model import Fact

TENANT = "acme"
USER = "ada"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)

ROUTING_KEYS: dict[type[Protobuf], str] = {
    TurnAccepted: "turn.accepted",
    TurnFinished: "turn.finished",
    SessionChanged: "session.changed",
    SessionDeleted: "session.deleted",
    TurnUsed: "turn.used",
}


def fact(message: Protobuf) -> Fact:
    """Return what the archive makes of a message."""
    return read_fact(ROUTING_KEYS[type(message)], message.SerializeToString())


class Story:
    """One session and its turns, as the session service would tell of them."""

    def __init__(self, name: str, *, tenant: str = TENANT, user: str = USER, age: int = 0) -> None:
        self.session_id = f"session-of-{name}".ljust(48, "-")
        self.tenant = tenant
        self.user = user
        self._name = name
        self._created = START + timedelta(seconds=age)

    def session(self, revision: int = 1, title: str = "About ships") -> Session:
        session = Session(
            session_id=self.session_id,
            user_id=self.user,
            title=title,
            mode=SESSION_MODE_DIRECT,
            metadata={"origin": "test"},
            revision=revision,
        )
        session.create_time.FromDatetime(self._created)
        return session

    def changed(self, revision: int = 1, title: str = "About ships") -> SessionChanged:
        return SessionChanged(tenant=self.tenant, session=self.session(revision, title))

    def deleted(self) -> SessionDeleted:
        gone = SessionDeleted(tenant=self.tenant, user_id=self.user, session_id=self.session_id)
        gone.delete_time.FromDatetime(START)
        return gone

    def turn_id(self, number: int) -> str:
        return f"turn-{number}-of-{self._name}".ljust(48, "-")

    def job(
        self, number: int = 1, *, text: str = "Why do ships float?", waiting: bool = False
    ) -> RunTurn:
        """Return the job of the session's turn *number*, from 1; a waiting one has no position."""
        job = RunTurn(
            tenant=self.tenant,
            user_id=self.user,
            turn_id=self.turn_id(number),
            request_id=f"request-{number}",
            request_hash=b"hash",
            lane="interactive",
            session=self.session(revision=10 * number),
            message=Message(
                message_id=f"{self.turn_id(number)}.u",
                session_id=self.session_id,
                turn_id=self.turn_id(number),
                author=AUTHOR_USER,
                text=text,
                position=0 if waiting else 2 * number - 1,
            ),
            max_attempts=5,
            predecessor_turn_id=self.turn_id(number - 1) if number > 1 else "",
        )
        job.create_time.FromDatetime(START + timedelta(seconds=number))
        return job

    def used(self, *usage_ids: str, number: int = 1, claim: str = "claim") -> TurnUsed:
        """Return what a run of a turn consumed: seven tokens and three millionths a call."""
        used = TurnUsed(
            tenant=self.tenant,
            user_id=self.user,
            turn_id=self.turn_id(number),
            session=self.session(revision=10 * number),
            claim_id=claim,
            usage=[self.call(usage_id) for usage_id in usage_ids],
        )
        used.time.FromDatetime(START + timedelta(seconds=number))
        return used

    def call(self, usage_id: str) -> turn_pb.Usage:
        return turn_pb.Usage(
            usage_id=usage_id,
            step="direct",
            model="m",
            input_tokens=7,
            cost_micros=3,
            currency="USD",
        )

    def accepted(self, number: int = 1, *, waiting: bool = False) -> TurnAccepted:
        return TurnAccepted(job=self.job(number, waiting=waiting))

    def finished(
        self,
        number: int = 1,
        *,
        text: str = "Because they push water aside.",
        state: turn_pb.TurnState.ValueType = turn_pb.TURN_STATE_COMPLETED,
        fence: int = 1,
    ) -> TurnFinished:
        job = self.job(number)
        job.ClearField("session")
        finished = TurnFinished(
            job=job,
            outcome=turn_pb.TurnOutcome(
                state=state,
                text=text,
                attempts=1,
                fence=fence,
                usage=[
                    turn_pb.Usage(step="search", model="wordllama", input_tokens=7),
                    turn_pb.Usage(step="answer", model="offline", output_tokens=9),
                ],
            ),
            answer=Message(
                message_id=f"{self.turn_id(number)}.a",
                session_id=self.session_id,
                turn_id=self.turn_id(number),
                author=AUTHOR_AGENT,
                text=text,
                position=2 * number,
            ),
            session=self.session(revision=10 * number + 5),
        )
        finished.outcome.finish_time.FromDatetime(START + timedelta(seconds=number, minutes=1))
        return finished
