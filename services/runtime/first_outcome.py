"""Requests that could not be carried out any more, but may have been before.

A request may refer to what goes later. Its retry still has the first outcome: the gateway, which
finds something missing, asks the service behind for that alone.
"""

from typing import Any

import grpc

from services.runtime.errors import FailedPrecondition

FIRST_OUTCOME = (("maieutic-outcome", "first"),)
"""Metadata of a call that is to carry nothing out."""
NOT_CARRIED_OUT = "NOT_CARRIED_OUT"


class NotCarriedOut(FailedPrecondition):
    """Only the first outcome was asked for, and there is none."""

    def __init__(self) -> None:
        super().__init__("this request was not carried out before", reason=NOT_CARRIED_OUT)


def first_outcome_only(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """Whether the call is to carry nothing out; NotCarriedOut answers it if nothing was before."""
    return set(FIRST_OUTCOME) <= set(context.invocation_metadata() or ())
