"""A small working file of dead letters: it keeps those that it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic.v1.dead_letter_admin_service_pb2_grpc import (
    DeadLetterAdminServiceServicer,
    add_DeadLetterAdminServiceServicer_to_server,
)
from services.runtime.errors import NotFound


@dataclass
class DeadLetters(DeadLetterAdminServiceServicer):
    """Letters by their id, the latest first, two a page."""

    letters: dict[str, pb.GetDeadLetterResponse] = field(default_factory=dict)

    def put(self, letter_id: str, content: bytes, *, routing_key: str = "interactive") -> None:
        """Put a job that nobody could read to the dead letters."""
        letter = pb.DeadLetter(
            letter_id=letter_id,
            message_id=f"of-{letter_id}",
            exchange="turns",
            routing_key=routing_key,
            queue=f"turns.{routing_key}.v1",
            reason="unreadable job",
            size=len(content),
        )
        self.letters[letter_id] = pb.GetDeadLetterResponse(
            letter=letter,
            headers={"baggage": "of the job"},
            first_bytes=content[:16],
            content=content,
        )

    async def ListDeadLetters(self, request: Any, context: Any) -> Any:
        start = int(request.page_token or 0)
        found = [
            letter
            for letter in self._matching(request.filter)
            if request.with_redriven or not letter.HasField("redrive_time")
        ]
        more = start + 2 < len(found)
        return pb.ListDeadLettersResponse(
            letters=found[start : start + 2], next_page_token=str(start + 2) if more else ""
        )

    async def GetDeadLetter(self, request: Any, context: Any) -> Any:
        answer = pb.GetDeadLetterResponse()
        answer.CopyFrom(self._found(request.letter_id))
        if not request.with_content:
            answer.ClearField("content")
        return answer

    async def RedriveDeadLetters(self, request: Any, context: Any) -> Any:
        chosen = self._chosen(request)
        answer = pb.RedriveDeadLettersResponse(letters=chosen)
        for letter in [] if request.dry_run else chosen:
            letter.redrive_time.GetCurrentTime()
        return answer

    async def DropDeadLetters(self, request: Any, context: Any) -> Any:
        chosen = [letter.letter_id for letter in self._chosen(request)]
        for letter_id in chosen:
            del self.letters[letter_id]
        return pb.DropDeadLettersResponse(dropped_count=len(chosen))

    def _chosen(self, request: Any) -> list[pb.DeadLetter]:
        if request.letter_ids:
            return [self._found(letter_id).letter for letter_id in request.letter_ids]
        return self._matching(request.filter)

    def _found(self, letter_id: str) -> pb.GetDeadLetterResponse:
        if letter_id not in self.letters:
            raise NotFound("dead letter", letter_id)
        return self.letters[letter_id]

    def _matching(self, wanted: pb.DeadLetterFilter) -> list[pb.DeadLetter]:
        return [
            kept.letter
            for kept in self.letters.values()
            if wanted.routing_key in ("", kept.letter.routing_key)
            and wanted.reason in kept.letter.reason
        ]


def register_dead_letters(letters: DeadLetters) -> Callable[[grpc.aio.Server], Sequence[str]]:
    """Return what `serving` calls to add the service."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_DeadLetterAdminServiceServicer_to_server(letters, server)
        return ("maieutic.v1.DeadLetterAdminService",)

    return register
