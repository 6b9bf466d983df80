"""Around every call of the session service: which operation it is, and whose ids were wrong."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.runtime.errors import NotFound
from services.runtime.interceptors import Answer, Call
from services.session.dead_letter_rpc import SERVICE as DEAD_LETTERS
from services.session.errors import ErrorType, InvalidId
from services.session.observing import StoreOperation, operating, seen

OPERATIONS: Mapping[str, StoreOperation] = MappingProxyType(
    {
        "CreateSession": StoreOperation.CREATE,
        "GetOrCreateSession": StoreOperation.CREATE,
        "BranchSession": StoreOperation.CREATE,
        "GetSession": StoreOperation.GET,
        "GetSessionStatistics": StoreOperation.GET,
        "UpdateSession": StoreOperation.UPDATE,
        "EndSession": StoreOperation.UPDATE,
        "AddNote": StoreOperation.UPDATE,
        "DeleteNote": StoreOperation.UPDATE,
        "AddBookmark": StoreOperation.UPDATE,
        "DeleteBookmark": StoreOperation.UPDATE,
        "TouchSession": StoreOperation.REFRESH,
        "DeleteSession": StoreOperation.DELETE,
        "ListSessions": StoreOperation.LIST,
        "ListMessages": StoreOperation.LIST,
        "ListNotes": StoreOperation.LIST,
        "ListBookmarks": StoreOperation.LIST,
        "ListSpecifications": StoreOperation.LIST,
        "ListConflicts": StoreOperation.LIST,
        "ListQuestions": StoreOperation.LIST,
        "GetSummary": StoreOperation.GET,
        "ResolveConflict": StoreOperation.UPDATE,
        "ListArtifacts": StoreOperation.LIST,
        "GetArtifact": StoreOperation.GET,
        "DownloadArtifact": StoreOperation.GET,
        "StreamTurn": StoreOperation.TURN,
        "BeginTurn": StoreOperation.TURN,
        "NextQuestion": StoreOperation.TURN,
        "Analyze": StoreOperation.TURN,
        "GenerateCode": StoreOperation.TURN,
        "GetTurn": StoreOperation.TURN,
        "CancelTurn": StoreOperation.TURN,
        "GetUsage": StoreOperation.GET,
        "GetTenantUsage": StoreOperation.GET,
        "WatchTurn": StoreOperation.EVENTS,
        "WatchSession": StoreOperation.EVENTS,
        "ClaimTurn": StoreOperation.TURN,
        "RecordTurnEvents": StoreOperation.EVENTS,
        "ListTurnMessages": StoreOperation.LIST,
        "PutTurnArtifact": StoreOperation.TURN,
        "CompleteStep": StoreOperation.TURN,
        "ReserveBudget": StoreOperation.TURN,
        "SettleBudget": StoreOperation.TURN,
        "CompleteTurn": StoreOperation.TURN,
        "FailTurn": StoreOperation.TURN,
        "ReleaseTurn": StoreOperation.TURN,
        "MarkArchived": StoreOperation.TURN,
        "EnsureTurns": StoreOperation.TURN,
        "ListQuarantined": StoreOperation.LIST,
        "GetQuarantined": StoreOperation.GET,
        "DropQuarantined": StoreOperation.DELETE,
    }
)
"""What each method asks the store for. Dead letters are not in it."""


async def observed(call: Call, answer: Answer) -> Any:
    """Let the call's work in the store count as its operation, and see what it does not find."""
    if call.infrastructure or call.method.startswith(f"/{DEAD_LETTERS}/"):
        return await answer()
    with operating(OPERATIONS[call.method.rpartition("/")[2]]):
        try:
            return await answer()
        except (NotFound, InvalidId) as error:
            invalid = isinstance(error, InvalidId)
            seen(ErrorType.INVALID_ID if invalid else ErrorType.NOT_FOUND)
            raise
