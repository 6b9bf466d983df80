"""The public DeadLetterAdminService, for those whom the services before vouch for as admins."""

import hashlib
import logging
from typing import Any, TypeAlias

import grpc

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceServicer
from services.persistence.dead_letter_ports import (
    DeadLetters,
    KeptLetter,
    LetterFilter,
    LetterOperation,
)
from services.persistence.errors import DeadLetterNotFound
from services.persistence.redriving import Chosen, Redriving
from services.persistence.requests import for_services
from services.runtime.errors import InvalidArgument
from services.runtime.identity import current_identity
from services.runtime.server import MEBIBYTE
from services.runtime.topology import Topology

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Change: TypeAlias = pb.RedriveDeadLettersRequest | pb.DropDeadLettersRequest

LOG = logging.getLogger(__name__)
DEFAULT_PAGE = 50
MOST_PAGE = 200
FIRST_BYTES = 16
CONTENT_BYTES = MEBIBYTE
LONGEST_TOKEN = 18
"""Digits, so that every number is one for the database."""


class DeadLetterServicer(DeadLetterAdminServiceServicer):
    """What an admin does with dead letters."""

    def __init__(
        self, *, letters: DeadLetters, redriving: Redriving, topology: Topology, keep: float
    ) -> None:
        """*keep* is for how many seconds letters are kept."""
        self._letters = letters
        self._redriving = redriving
        self._topology = topology
        self._keep = keep

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        for_services()
        limit = request.page_size or DEFAULT_PAGE
        if not 0 < limit <= MOST_PAGE:
            raise InvalidArgument("page_size", f"must be 0 to {MOST_PAGE}, is {limit}")
        found = await self._letters.dead_letters(
            _filter(request.filter),
            below=_place(request.page_token),
            limit=limit + 1,
            with_redriven=request.with_redriven,
        )
        page = found[:limit]
        return pb.ListDeadLettersResponse(
            letters=[self._shown(letter) for letter in page],
            next_page_token=str(page[-1].number) if len(found) > limit else "",
        )

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        for_services()
        found = await self._letters.dead_letters_of([request.letter_id])
        whole = await self._letters.whole_dead_letter(request.letter_id)
        if not found or whole is None:
            raise DeadLetterNotFound(request.letter_id)
        return pb.GetDeadLetterResponse(
            letter=self._shown(found[0]),
            headers=whole.headers,
            first_bytes=whole.body[:FIRST_BYTES],
            content=whole.body[:CONTENT_BYTES] if request.with_content else b"",
        )

    async def RedriveDeadLetters(
        self, request: pb.RedriveDeadLettersRequest, context: Context
    ) -> pb.RedriveDeadLettersResponse:
        for_services()
        which = _which(request)
        if request.dry_run:
            return self._outcome(await self._redriving.choose(which))
        operation = _operation(request)
        done = await self._letters.dead_letter_outcome(operation)
        if done is None:
            chosen = await self._redriving.choose(which)
            outcome = self._outcome(chosen).SerializeToString()
            await self._redriving.redrive(chosen.letters)
            _log("redriven", operation, [letter.letter_id for letter in chosen.letters])
            done = await self._letters.keep_dead_letter_outcome(operation, outcome)
        return pb.RedriveDeadLettersResponse.FromString(done)

    async def DropDeadLetters(
        self, request: pb.DropDeadLettersRequest, context: Context
    ) -> pb.DropDeadLettersResponse:
        for_services()
        which, operation = _which(request), _operation(request)
        count = await self._letters.drop_dead_letters(which, operation)
        _log("dropped", operation, which)
        return pb.DropDeadLettersResponse(dropped_count=count)

    def _outcome(self, chosen: Chosen) -> pb.RedriveDeadLettersResponse:
        return pb.RedriveDeadLettersResponse(
            letters=[self._shown(letter) for letter in chosen.letters],
            remaining_count=chosen.remaining,
        )

    def _shown(self, letter: KeptLetter) -> pb.DeadLetter:
        home = self._topology.home_of(letter.routing_key)
        shown = pb.DeadLetter(
            letter_id=letter.letter_id,
            message_id=letter.message_id,
            exchange=home.exchange,
            routing_key=letter.routing_key,
            queue=home.queue,
            reason=letter.reason,
            size=letter.size,
            cut=letter.cut,
            redrive_count=letter.redrives,
        )
        shown.create_time.FromDatetime(letter.create_time)
        shown.expire_time.FromNanoseconds(shown.create_time.ToNanoseconds() + int(self._keep * 1e9))
        if letter.redrive_time is not None:
            shown.redrive_time.FromDatetime(letter.redrive_time)
        return shown


def _which(request: Change) -> LetterFilter | list[str]:
    if bool(request.letter_ids) == request.HasField("filter"):
        raise InvalidArgument("letter_ids", "give either these or a filter")
    return _filter(request.filter) if request.HasField("filter") else list(request.letter_ids)


def _filter(value: pb.DeadLetterFilter) -> LetterFilter:
    for name, text in (("routing_key", value.routing_key), ("reason", value.reason)):
        if "\0" in text:
            raise InvalidArgument(f"filter.{name}", "must not have the character 0")
    return LetterFilter(routing_key=value.routing_key, reason=value.reason)


def _place(page_token: str) -> int | None:
    if not page_token:
        return None
    if not (page_token.isascii() and page_token.isdecimal() and len(page_token) <= LONGEST_TOKEN):
        raise InvalidArgument("page_token", "must be next_page_token of the previous answer")
    return int(page_token)


def _operation(request: Change) -> LetterOperation:
    """Return whose request it is, and what it says without its id."""
    identity = current_identity()
    said = type(request).FromString(request.SerializeToString())
    said.ClearField("request_id")
    text = said.DESCRIPTOR.full_name.encode() + said.SerializeToString(deterministic=True)
    return LetterOperation(
        tenant=identity.tenant,
        user_id=identity.user,
        request_id=request.request_id,
        request_hash=hashlib.sha256(text).digest(),
    )


def _log(what: str, operation: LetterOperation, which: LetterFilter | list[str]) -> None:
    who = f"{operation.tenant}/{operation.user_id}"
    LOG.warning("dead letters are %s: %s", what, which, extra={"by": who})
