"""What a worker tells the archive over the bus."""

import asyncio
import logging
import random
from collections.abc import Sequence

from maieutic.bus.v1.bus_pb2 import RunTurn, TurnFinished, TurnUsed
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_KIND_ASK, Usage
from services.runtime.bus import Bus, BusUnavailable, OutgoingMessage

_LOG = logging.getLogger(__name__)

LONGEST_PAUSE = 2.0


async def confirmed(bus: Bus, message: OutgoingMessage) -> None:
    """Publish until the broker confirms it; doubles are recognised by what they say."""
    while True:
        try:
            return await bus.publish(message)
        except BusUnavailable as error:
            _LOG.warning("%s %s: not confirmed: %s", message.routing_key, message.message_id, error)
        await asyncio.sleep(random.uniform(0, LONGEST_PAUSE))  # noqa: S311 - no secret


def outcome(finished: TurnFinished) -> OutgoingMessage:
    """Return the message that carries an outcome."""
    return OutgoingMessage(
        exchange="results",
        routing_key="turn.finished",
        body=finished.SerializeToString(),
        message_id=f"{finished.job.turn_id}:{finished.outcome.fence}",
    )


def used(job: RunTurn, claim_id: str, usage: Sequence[Usage]) -> OutgoingMessage:
    """Return the message that tells what a run has consumed besides its turn's outcome."""
    session = Session(
        session_id=job.message.session_id, user_id=job.user_id, create_time=job.create_time
    )
    told = TurnUsed(
        tenant=job.tenant,
        user_id=job.user_id,
        turn_id=job.turn_id,
        session=job.session if job.HasField("session") else session,
        claim_id=claim_id,
        usage=usage,
        kind=job.kind or TURN_KIND_ASK,
    )
    told.time.GetCurrentTime()
    return OutgoingMessage(
        exchange="results",
        routing_key="turn.used",
        body=told.SerializeToString(),
        message_id=f"{job.turn_id}:{claim_id}:used",
    )
