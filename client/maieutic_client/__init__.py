"""The Python client of Maieutic.

    async with Maieutic.connect("127.0.0.1:50051", api_key=key) as client:
        session = await client.sessions.create(title="Redis")
        async with client.turns.stream(session.session_id, "What is a stream?") as stream:
            async for frame in stream:
                ...
        print(stream.text)

Messages are those of the package `maieutic.v1`. Every error is a `MaieuticError`.
"""

from maieutic_client.artifacts import SavedArtifact
from maieutic_client.client import Maieutic
from maieutic_client.errors import (
    Aborted,
    AlreadyExists,
    BudgetSpent,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MaieuticError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RevisionMismatch,
    SessionBusy,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Violation,
)
from maieutic_client.retry import RetryPolicy
from maieutic_client.safe_files import UnsafePath
from maieutic_client.session_ids import SessionLike, session_id_of
from maieutic_client.session_stream import SessionStream
from maieutic_client.stream import TurnStream

__all__ = [
    "Aborted",
    "AlreadyExists",
    "BudgetSpent",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Maieutic",
    "MaieuticError",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "RetryPolicy",
    "RevisionMismatch",
    "SavedArtifact",
    "SessionBusy",
    "SessionLike",
    "SessionStream",
    "TurnStream",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UnsafePath",
    "Violation",
    "session_id_of",
]
