"""Why a call has ended that was still sending."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

LOST = "Internal error from Core"
"""What gRPC says in the place of a status that comes while a request is on its way."""
PATIENCE_SECONDS = 1.0

T = TypeVar("T")


class Refusal:
    """Keeps what the server says of a call that it ends before all was sent.

    gRPC for asyncio gives a call INTERNAL if a request cannot be sent any more, also after the
    status that tells why, or before it.
    """

    def __init__(self, call: Any) -> None:
        """Listen to a call that has just begun."""
        self._said: asyncio.Future[grpc.aio.AioRpcError] = (
            asyncio.get_running_loop().create_future()
        )
        call.add_done_callback(self._note)

    async def instead_of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return what the server has said, if *error* is only gRPC's own."""
        if error.details() != LOST:
            return error
        done, _ = await asyncio.wait({self._said}, timeout=PATIENCE_SECONDS)
        return self._said.result() if done else error

    def _note(self, call: Any) -> None:
        """Hear of a status; there may be two, and each stands only while it is told."""
        status = _at_once(_status_of(call))
        if not self._said.done() and status.details() != LOST:
            self._said.set_result(status)


async def _status_of(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
    )


def _at_once(answer: Coroutine[Any, Any, T]) -> T:
    """Return the answer of a coroutine that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    answer.close()
    raise AssertionError(answer)
