"""What the services behind the gateway answer, on its way to the caller."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from maieutic.v1.document_service_pb2 import GetDocumentRequest, ListDocumentsRequest
from maieutic_client.refusals import Refusal
from services.gateway.errors import PeerAway, UnknownCollection, UnknownDocuments
from services.runtime.errors import Cancelled, ServiceError, Unavailable, from_rpc
from services.runtime.first_outcome import FIRST_OUTCOME, NOT_CARRIED_OUT
from services.runtime.interceptors import Answer, Around, Call

if TYPE_CHECKING:
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub

M = TypeVar("M")
R = TypeVar("R")


def explaining_absence(peers: Mapping[str, str]) -> Around:
    """Say which service is away, and when to retry, where gRPC itself made the error.

    *peers* has the service behind by the full name of the public one. An error that a service
    gave passes on as it is: the server relays its code and details unchanged.
    """

    async def around(call: Call, answer: Answer) -> Any:
        try:
            return await answer()
        except grpc.aio.AioRpcError as error:
            received = from_rpc(error)
            # A peer that stops cancels its calls: to the caller that is the same as being away.
            if received.transport and isinstance(received, Unavailable | Cancelled):
                raise PeerAway(peers[call.method.split("/")[1]]) from error
            raise

    return around


async def relayed(call: "grpc.aio.UnaryStreamCall[Any, M]") -> AsyncIterator[M]:
    """Pass a peer's stream on, one message at a time; leaving it cancels the peer's call."""
    try:
        async for message in call:
            yield message
    finally:
        call.cancel()


async def exchanged(
    call: "grpc.aio.StreamStreamCall[R, M]", requests: AsyncIterator[R]
) -> AsyncIterator[M]:
    """Pass both streams on; a request that is refused, here or there, ends the call with that."""
    said = Refusal(call)
    sending = asyncio.create_task(_sent(call, requests))
    try:
        async for message in call:
            yield message
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
        refusal = sending.exception() if sending.done() and not sending.cancelled() else None
        if isinstance(refusal, ServiceError):
            raise refusal from error
        if isinstance(error, grpc.aio.AioRpcError):
            raise await said.instead_of(error) from None
        raise
    finally:
        call.cancel()
        sending.cancel()
        await asyncio.wait([sending])


async def _sent(call: "grpc.aio.StreamStreamCall[R, M]", requests: AsyncIterator[R]) -> None:
    try:
        async for request in requests:
            await call.write(request)
        await call.done_writing()
    except ServiceError:
        call.cancel()
        raise
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        # The peer has answered before all was sent; its answer tells why.
        return


@asynccontextmanager
async def once_found(search: Awaitable[None]) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """Give the metadata of a call that refers to what *search* looks for.

    If that is missing, the same request may still have been carried out before: the call asks for
    its first outcome alone. Where there is none either, what is missing is raised.
    """
    try:
        await search
    except (UnknownDocuments, UnknownCollection) as missing:
        try:
            yield FIRST_OUTCOME
        except grpc.aio.AioRpcError as error:
            if from_rpc(error).reason == NOT_CARRIED_OUT:
                raise missing from error
            raise
    else:
        yield ()


async def require_documents(
    documents: "DocumentServiceAsyncStub", ids: Sequence[str], *, field: str
) -> None:
    """Raise UnknownDocuments, naming *field*, unless the caller has all of them."""
    calls = [documents.GetDocument(GetDocumentRequest(document_id=id_)) for id_ in ids]
    missing: dict[int, str] = {}
    try:
        for place, call in enumerate(calls):
            if not await _found(call):
                missing[place] = ids[place]
    finally:
        for call in calls:
            call.cancel()
    if missing:
        raise UnknownDocuments(field, missing)


async def require_collection(
    documents: "DocumentServiceAsyncStub", collection: str, *, field: str
) -> None:
    """Raise UnknownCollection, naming *field*, if one is named that has no documents."""
    wanted = ListDocumentsRequest(collection=collection, page_size=1)
    if collection and not (await documents.ListDocuments(wanted)).documents:
        raise UnknownCollection(field, collection)


async def _found(call: "grpc.aio.UnaryUnaryCall[Any, Any]") -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return False
    return True
