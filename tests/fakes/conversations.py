"""Small working session and turn services: they keep what they are given, and answer by echo."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from maieutic.v1 import message_pb2, session_service_pb2 as session_pb, turn_service_pb2 as turn_pb
from maieutic.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
)
from maieutic.v1.turn_service_pb2_grpc import (
    TurnServiceServicer,
)
from services.runtime.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServiceError,
    Unavailable,
)
from services.runtime.first_outcome import NotCarriedOut, first_outcome_only
from services.runtime.identity import current_identity

if TYPE_CHECKING:  # the stubs are generic, the classes themselves are not
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext
Owner = tuple[str, str]
Frame = TypeVar("Frame", turn_pb.TurnFrame, session_pb.SessionFrame)

PAGE_SIZE = 50


def caller() -> Owner:
    identity = current_identity()
    return identity.tenant, identity.user


def stable_id(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:48]


def page_of(items: Sequence[Any], size: int, token: str) -> tuple[Sequence[Any], str]:
    """Return one page and the next page's token; the tokens are positions."""
    if token and not (token.isdigit() and int(token) < len(items)):
        raise InvalidArgument("page_token", "must be the next_page_token of the answer before")
    start = int(token or 0)
    end = start + (size or PAGE_SIZE)
    return items[start:end], str(end) if end < len(items) else ""


@dataclass(kw_only=True)
class Conversations:
    """What both services share. `cuts` and `hold` are for tests of broken links and slow turns."""

    owner: Callable[[], Owner] = caller
    sessions: dict[str, tuple[Owner, session_pb.Session]] = field(default_factory=dict)
    turns: dict[str, tuple[Owner, turn_pb.Turn]] = field(default_factory=dict)
    notes: dict[str, list[session_pb.Note]] = field(default_factory=dict)
    bookmarks: dict[str, list[session_pb.Bookmark]] = field(default_factory=dict)
    findings: dict[str, turn_pb.Findings] = field(default_factory=dict)
    requests: dict[tuple[str, ...], bytes] = field(default_factory=dict)
    frames: dict[str, list[turn_pb.TurnFrame]] = field(default_factory=dict)
    happened: dict[str, list[session_pb.SessionFrame]] = field(default_factory=dict)
    """What is told of each session after its snapshot."""
    cuts: list[int] = field(default_factory=list)
    """For the next streams, in order, after how many frames each breaks."""
    breaks_with: ServiceError = field(default_factory=lambda: Unavailable("cut by the test"))
    hold: asyncio.Event | None = None
    """If set, streams stop before their outcome until it is."""
    hold_all: asyncio.Event | None = None
    """If set, streams of turns stop before their first frame until it is."""
    silent: set[str] = field(default_factory=set)
    """Turns that go on, and have nothing to tell those who watch them."""
    open_streams: int = 0
    sent: int = 0
    """Frames handed to gRPC so far, in all streams."""
    opened: list[str] = field(default_factory=list)
    """The method of each stream that was opened."""
    calls: list[tuple[str, Owner]] = field(default_factory=list)
    answer: Callable[[str, str], list[turn_pb.TurnFrame]] | None = None
    """Makes the frames after `accepted`, from turn id and text."""

    def session(self, session_id: str) -> session_pb.Session:
        owner, session = self.sessions.get(session_id, (None, None))
        if session is None or owner != self.owner():
            raise NotFound("session", session_id)
        return session

    def messages(self, session_id: str) -> list[message_pb2.Message]:
        """Return a session's messages, oldest first."""
        self.session(session_id)
        return [
            message_pb2.Message(
                message_id=stable_id(turn.turn_id, str(author)),
                turn_id=turn.turn_id,
                author=author,
                text=text,
            )
            for _, turn in self.turns.values()
            if turn.session_id == session_id and turn.kind != turn_pb.TURN_KIND_SUPPORT
            for author, text in (
                (message_pb2.AUTHOR_USER, turn.text),
                (message_pb2.AUTHOR_AGENT, turn.outcome.text),
            )
        ]

    def beside(self, turn_id: str, outcome: turn_pb.TurnOutcome) -> None:
        """Have a turn of acme's ann that can only be watched, to this end."""
        self.turns[turn_id] = ("acme", "ann"), turn_pb.Turn(turn_id=turn_id, outcome=outcome)
        self.frames[turn_id] = [turn_pb.TurnFrame(turn_id=turn_id, outcome=outcome)]

    def found(self, session_id: str) -> turn_pb.Findings:
        self.session(session_id)
        return self.findings.setdefault(session_id, turn_pb.Findings())

    def turn(self, turn_id: str) -> turn_pb.Turn:
        owner, turn = self.turns.get(turn_id, (None, None))
        if turn is None or owner != self.owner():
            raise NotFound("turn", turn_id)
        return turn

    def once(self, request: Any, context: Context, *key: str) -> None:
        """Refuse a request id that came with another request, or a new one that may not begin."""
        raw = request.SerializeToString(deterministic=True)
        known = (*self.owner(), *key, request.request_id) in self.requests
        if first_outcome_only(context) and not known:
            raise NotCarriedOut
        if self.requests.setdefault((*self.owner(), *key, request.request_id), raw) != raw:
            raise AlreadyExists("request_id was used before", reason="REQUEST_ID_TAKEN")


class FakeSessions(SessionServiceServicer):
    def __init__(self, state: Conversations) -> None:
        self._state = state

    async def CreateSession(
        self, request: session_pb.CreateSessionRequest, context: Context
    ) -> session_pb.CreateSessionResponse:
        state, owner = self._state, self._state.owner()
        state.calls.append(("CreateSession", owner))
        state.once(request, context, "session")
        session = session_pb.Session(
            session_id=stable_id(*owner, request.request_id),
            user_id=owner[1],
            title=request.title,
            mode=request.mode or session_pb.SESSION_MODE_DIRECT,
            metadata=request.metadata,
            document_ids=request.document_ids,
            budget=request.budget,
            revision=1,
        )
        session.create_time.GetCurrentTime()
        _, kept = state.sessions.setdefault(session.session_id, (owner, session))
        return session_pb.CreateSessionResponse(session=kept)

    async def GetSession(
        self, request: session_pb.GetSessionRequest, context: Context
    ) -> session_pb.GetSessionResponse:
        return session_pb.GetSessionResponse(session=self._state.session(request.session_id))

    async def ListSessions(
        self, request: session_pb.ListSessionsRequest, context: Context
    ) -> session_pb.ListSessionsResponse:
        state = self._state
        own = [session for owner, session in state.sessions.values() if owner == state.owner()]
        page, token = page_of(own[::-1], request.page_size, request.page_token)
        return session_pb.ListSessionsResponse(sessions=page, next_page_token=token)

    async def GetOrCreateSession(
        self, request: session_pb.GetOrCreateSessionRequest, context: Context
    ) -> session_pb.GetOrCreateSessionResponse:
        state, owner = self._state, self._state.owner()
        session_id = stable_id(*owner, "standing", *sorted(request.document_ids))
        created = session_id not in state.sessions
        session = session_pb.Session(
            session_id=session_id,
            user_id=owner[1],
            title=request.title,
            document_ids=request.document_ids,
        )
        _, kept = state.sessions.setdefault(session_id, (owner, session))
        return session_pb.GetOrCreateSessionResponse(session=kept, created=created)

    async def UpdateSession(
        self, request: session_pb.UpdateSessionRequest, context: Context
    ) -> session_pb.UpdateSessionResponse:
        session = self._state.session(request.session_id)
        self._state.once(request, context, "update", request.session_id)
        if request.expected_revision not in (0, session.revision):
            detail = session_pb.RevisionMismatch(
                session_id=session.session_id,
                expected_revision=request.expected_revision,
                current_revision=session.revision,
            )
            raise Aborted("the session changed", reason="REVISION_MISMATCH", extra=[detail])
        fields = {name: getattr(request, name) for name in request.update_mask.paths}
        for name in fields:
            session.ClearField(name)  # type: ignore[arg-type] # the rules of the request say which
        session.MergeFrom(session_pb.Session(**fields))
        session.revision += 1
        return session_pb.UpdateSessionResponse(session=session)

    async def EndSession(
        self, request: session_pb.EndSessionRequest, context: Context
    ) -> session_pb.EndSessionResponse:
        session = self._state.session(request.session_id)
        session.end_time.GetCurrentTime()
        return session_pb.EndSessionResponse(session=session)

    async def TouchSession(
        self, request: session_pb.TouchSessionRequest, context: Context
    ) -> session_pb.TouchSessionResponse:
        session = self._state.session(request.session_id)
        session.last_used_time.GetCurrentTime()
        return session_pb.TouchSessionResponse(session=session)

    async def DeleteSession(
        self, request: session_pb.DeleteSessionRequest, context: Context
    ) -> session_pb.DeleteSessionResponse:
        self._state.session(request.session_id)
        del self._state.sessions[request.session_id]
        return session_pb.DeleteSessionResponse()

    async def ListMessages(
        self, request: session_pb.ListMessagesRequest, context: Context
    ) -> session_pb.ListMessagesResponse:
        messages = self._state.messages(request.session_id)
        step = 1 if request.order == session_pb.MESSAGE_ORDER_OLDEST_FIRST else -1
        page, token = page_of(messages[::step], request.page_size, request.page_token)
        return session_pb.ListMessagesResponse(messages=page, next_page_token=token)

    async def BranchSession(
        self, request: session_pb.BranchSessionRequest, context: Context
    ) -> session_pb.BranchSessionResponse:
        state = self._state
        parent = state.session(request.session_id)
        if request.message_id not in {m.message_id for m in state.messages(request.session_id)}:
            raise NotFound("message", request.message_id)
        branch = session_pb.Session()
        branch.CopyFrom(parent)
        branch.session_id = stable_id(parent.session_id, "branch", request.request_id)
        branch.parent_session_id = parent.session_id
        branch.title = request.title or parent.title
        state.sessions[branch.session_id] = (state.owner(), branch)
        return session_pb.BranchSessionResponse(session=branch)

    async def GetSessionStatistics(
        self, request: session_pb.GetSessionStatisticsRequest, context: Context
    ) -> session_pb.GetSessionStatisticsResponse:
        found = session_pb.SessionStatistics(
            message_count=len(self._state.messages(request.session_id))
        )
        found.turns.add(state=turn_pb.TURN_STATE_COMPLETED, count=found.message_count // 2)
        found.usage.add(model="echo", output_tokens=7, cost_micros=12_000_345, currency="USD")
        found.usage.add(model="mute")
        return session_pb.GetSessionStatisticsResponse(statistics=found)

    async def WatchSession(
        self, request: session_pb.WatchSessionRequest, context: Context
    ) -> AsyncIterator[session_pb.WatchSessionResponse]:
        state, session_id = self._state, request.session_id
        state.opened.append("WatchSession")
        current = session_pb.CurrentSession(session=state.session(session_id))
        first = session_pb.SessionFrame(snapshot=session_pb.SessionSnapshot(current=current))
        frames = [first, *state.happened.get(session_id, [])]
        for place, frame in enumerate(frames):
            frame.cursor = f"{session_id[:8]}-{place}"
        cut = state.cuts.pop(0) if state.cuts else None
        for sent, frame in enumerate(frames[_place(frames, request.cursor) :]):
            if sent == cut:
                raise state.breaks_with
            yield session_pb.WatchSessionResponse(frame=frame)

    async def AddNote(
        self, request: session_pb.AddNoteRequest, context: Context
    ) -> session_pb.AddNoteResponse:
        state, session_id = self._state, request.session_id
        session = state.session(session_id)
        note = session_pb.Note(note_id=stable_id(session_id, request.request_id), text=request.text)
        note.create_time.GetCurrentTime()
        state.notes.setdefault(session_id, []).append(note)
        return session_pb.AddNoteResponse(note=note, session=session)

    async def ListNotes(
        self, request: session_pb.ListNotesRequest, context: Context
    ) -> session_pb.ListNotesResponse:
        self._state.session(request.session_id)
        kept = self._state.notes.get(request.session_id, [])
        page, token = page_of(kept, request.page_size, request.page_token)
        return session_pb.ListNotesResponse(notes=page, next_page_token=token)

    async def DeleteNote(
        self, request: session_pb.DeleteNoteRequest, context: Context
    ) -> session_pb.DeleteNoteResponse:
        session = self._state.session(request.session_id)
        kept = self._state.notes.setdefault(request.session_id, [])
        kept[:] = [note for note in kept if note.note_id != request.note_id]
        return session_pb.DeleteNoteResponse(session=session)

    async def AddBookmark(
        self, request: session_pb.AddBookmarkRequest, context: Context
    ) -> session_pb.AddBookmarkResponse:
        state, session_id = self._state, request.session_id
        session = state.session(session_id)
        if request.message_id not in {m.message_id for m in state.messages(session_id)}:
            raise NotFound("message", request.message_id)
        bookmark = session_pb.Bookmark(
            bookmark_id=stable_id(session_id, "bookmark", request.request_id),
            message_id=request.message_id,
            label=request.label,
        )
        state.bookmarks.setdefault(session_id, []).append(bookmark)
        return session_pb.AddBookmarkResponse(bookmark=bookmark, session=session)

    async def ListBookmarks(
        self, request: session_pb.ListBookmarksRequest, context: Context
    ) -> session_pb.ListBookmarksResponse:
        self._state.session(request.session_id)
        kept = self._state.bookmarks.get(request.session_id, [])
        page, token = page_of(kept, request.page_size, request.page_token)
        return session_pb.ListBookmarksResponse(bookmarks=page, next_page_token=token)

    async def DeleteBookmark(
        self, request: session_pb.DeleteBookmarkRequest, context: Context
    ) -> session_pb.DeleteBookmarkResponse:
        session = self._state.session(request.session_id)
        kept = self._state.bookmarks.setdefault(request.session_id, [])
        kept[:] = [one for one in kept if one.bookmark_id != request.bookmark_id]
        return session_pb.DeleteBookmarkResponse(session=session)


KINDS: Mapping[type[Any], turn_pb.TurnKind.ValueType] = {
    turn_pb.NextQuestionRequest: turn_pb.TURN_KIND_NEXT_QUESTION,
    turn_pb.AnalyzeRequest: turn_pb.TURN_KIND_SUPPORT,
    turn_pb.GenerateCodeRequest: turn_pb.TURN_KIND_CODE,
}

REJECTING = frozenset({turn_pb.BUSY_POLICY_UNSPECIFIED, turn_pb.BUSY_POLICY_REJECT})


class FakeTurns(TurnServiceServicer):
    def __init__(self, state: Conversations) -> None:
        self._state = state

    async def StreamTurn(
        self, request: turn_pb.StreamTurnRequest, context: Context
    ) -> AsyncIterator[turn_pb.StreamTurnResponse]:
        self._state.opened.append("StreamTurn")
        turn = self._begun(request, context)
        async for frame in self._sent(self._state.frames[turn.turn_id]):
            yield turn_pb.StreamTurnResponse(frame=frame)

    async def BeginTurn(
        self, request: turn_pb.BeginTurnRequest, context: Context
    ) -> turn_pb.BeginTurnResponse:
        return turn_pb.BeginTurnResponse(turn=self._begun(request, context))

    async def NextQuestion(
        self, request: turn_pb.NextQuestionRequest, context: Context
    ) -> AsyncIterator[turn_pb.NextQuestionResponse]:
        self._state.opened.append("NextQuestion")
        turn = self._begun(request, context)
        async for frame in self._sent(self._state.frames[turn.turn_id]):
            yield turn_pb.NextQuestionResponse(frame=frame)

    async def Analyze(
        self, request: turn_pb.AnalyzeRequest, context: Context
    ) -> AsyncIterator[turn_pb.AnalyzeResponse]:
        self._state.opened.append("Analyze")
        if request.turn_id:
            request.text = self._state.turn(request.turn_id).outcome.text
        turn = self._begun(request, context)
        async for frame in self._sent(self._state.frames[turn.turn_id]):
            yield turn_pb.AnalyzeResponse(frame=frame)

    async def GenerateCode(
        self, request: turn_pb.GenerateCodeRequest, context: Context
    ) -> AsyncIterator[turn_pb.GenerateCodeResponse]:
        self._state.opened.append("GenerateCode")
        turn = self._begun(request, context)
        async for frame in self._sent(self._state.frames[turn.turn_id]):
            yield turn_pb.GenerateCodeResponse(frame=frame)

    async def WatchTurn(
        self, request: turn_pb.WatchTurnRequest, context: Context
    ) -> AsyncIterator[turn_pb.WatchTurnResponse]:
        self._state.opened.append("WatchTurn")
        turn = self._state.turn(request.turn_id)
        if turn.turn_id in self._state.silent:
            await asyncio.Event().wait()
        frames = self._state.frames[turn.turn_id]
        async for frame in self._sent(frames[_place(frames, request.cursor) :]):
            yield turn_pb.WatchTurnResponse(frame=frame)

    async def GetTurn(
        self, request: turn_pb.GetTurnRequest, context: Context
    ) -> turn_pb.GetTurnResponse:
        return turn_pb.GetTurnResponse(turn=self._state.turn(request.turn_id))

    async def CancelTurn(
        self, request: turn_pb.CancelTurnRequest, context: Context
    ) -> turn_pb.CancelTurnResponse:
        turn = self._state.turn(request.turn_id)
        self._state.calls.append(("CancelTurn", self._state.owner()))
        return turn_pb.CancelTurnResponse(turn=turn)

    def _begun(
        self,
        request: turn_pb.StreamTurnRequest
        | turn_pb.BeginTurnRequest
        | turn_pb.NextQuestionRequest
        | turn_pb.AnalyzeRequest
        | turn_pb.GenerateCodeRequest,
        context: Context,
    ) -> turn_pb.Turn:
        state, text, waits = self._state, "", True
        if isinstance(request, turn_pb.GenerateCodeRequest):
            text = request.instructions
        elif not isinstance(request, turn_pb.NextQuestionRequest):
            text = request.text
        if not isinstance(request, turn_pb.GenerateCodeRequest | turn_pb.AnalyzeRequest):
            waits = request.busy_policy not in REJECTING
        state.session(request.session_id)
        state.once(request, context, "turn", request.session_id)
        if text == "busy" and not waits:
            raise FailedPrecondition("another turn is running", reason="SESSION_BUSY")
        turn = turn_pb.Turn(
            turn_id=stable_id(request.session_id, request.request_id),
            session_id=request.session_id,
            request_id=request.request_id,
            state=turn_pb.TURN_STATE_COMPLETED,
            text=text,
            kind=KINDS.get(type(request), turn_pb.TURN_KIND_ASK),
            durable=True,
        )
        if turn.turn_id not in state.turns:
            frames = self._frames(turn)
            turn.outcome.CopyFrom(frames[-1].outcome)
            state.turns[turn.turn_id], state.frames[turn.turn_id] = (state.owner(), turn), frames
        return state.turns[turn.turn_id][1]

    def _frames(self, turn: turn_pb.Turn) -> list[turn_pb.TurnFrame]:
        make = self._state.answer or echo
        frames = [turn_pb.TurnFrame(accepted=turn_pb.TurnAccepted(turn=turn))]
        frames += make(turn.turn_id, turn.text)
        for place, frame in enumerate(frames):
            frame.turn_id, frame.cursor = turn.turn_id, f"{turn.turn_id[:8]}-{place}"
        return frames

    async def _sent(self, frames: list[turn_pb.TurnFrame]) -> AsyncIterator[turn_pb.TurnFrame]:
        state = self._state
        cut = state.cuts.pop(0) if state.cuts else None
        state.open_streams += 1
        try:
            if state.hold_all is not None:
                await state.hold_all.wait()
            for sent, frame in enumerate(frames):
                if sent == cut:
                    raise state.breaks_with
                if state.hold is not None and frame.HasField("outcome"):
                    await state.hold.wait()
                state.sent += 1
                yield frame
        finally:
            state.open_streams -= 1


def echo(turn_id: str, text: str) -> list[turn_pb.TurnFrame]:
    """Answer with the words of the question, one a frame."""
    words = [f"{word} " for word in text.split()]
    outcome = turn_pb.TurnOutcome(
        state=turn_pb.TURN_STATE_COMPLETED,
        text="".join(words),
        attempts=1,
        citations=[
            message_pb2.Citation(number=1, document_name="facts.md", quote="as it is written")
        ],
    )
    return [
        turn_pb.TurnFrame(started=turn_pb.TurnStarted(attempt=1)),
        *(turn_pb.TurnFrame(delta=turn_pb.TurnDelta(text=word)) for word in words),
        turn_pb.TurnFrame(outcome=outcome),
    ]


def _place(frames: Sequence[Frame], cursor: str) -> int:
    places = [place for place, frame in enumerate(frames) if frame.cursor == cursor]
    if cursor and not places:
        raise InvalidArgument("cursor", "must be the cursor of a frame of this stream")
    return places[0] + 1 if cursor else 0
