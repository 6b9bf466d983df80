"""What the services behind the gateway answer, on its way to the caller."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from maieutic.v1.document_service_pb2 import GetDocumentRequest
from services.gateway.errors import PeerAway, UnknownDocuments
from services.runtime.errors import Cancelled, Unavailable, from_rpc
from services.runtime.interceptors import Answer, Around, Call

if TYPE_CHECKING:
    from maieutic.v1.document_service_pb2_grpc import DocumentServiceAsyncStub

M = TypeVar("M")


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


async def _found(call: "grpc.aio.UnaryUnaryCall[Any, Any]") -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return False
    return True
