"""The public UsageService, and what admins ask beyond it, for callers whom services vouch for."""

from typing import Any, TypeAlias

import grpc

from maieutic.v1 import usage_admin_service_pb2 as admin_pb, usage_service_pb2 as pb
from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceServicer
from maieutic.v1.usage_service_pb2_grpc import UsageServiceServicer
from services.persistence.errors import SessionNotFound, TurnNotFound
from services.persistence.requests import for_services
from services.persistence.usage_ports import UsageAccounts, UsageAnswer, UsageQuestion
from services.persistence.usage_questions import question_of, token_of
from services.runtime.identity import current_identity

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class UsageServicer(UsageServiceServicer):
    """What callers ask of their own usage."""

    def __init__(self, accounts: UsageAccounts) -> None:
        self._accounts = accounts

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        for_services()
        caller = current_identity()
        question = question_of(request, tenant=caller.tenant, user_id=caller.user)
        answer = await _answered(self._accounts, question)
        token = token_of(question, answer.rest)
        return pb.GetUsageResponse(rows=answer.rows, total=answer.total, next_page_token=token)


class UsageAdminServicer(UsageAdminServiceServicer):
    """What admins ask of everybody's usage."""

    def __init__(self, accounts: UsageAccounts) -> None:
        self._accounts = accounts

    async def GetTenantUsage(
        self, request: admin_pb.GetTenantUsageRequest, context: Context
    ) -> admin_pb.GetTenantUsageResponse:
        for_services()
        tenant = request.tenant or current_identity().tenant
        question = question_of(request, tenant=tenant, user_id=request.user_id or None)
        answer = await _answered(self._accounts, question)
        token = token_of(question, answer.rest)
        return admin_pb.GetTenantUsageResponse(
            rows=answer.rows, total=answer.total, next_page_token=token
        )


async def _answered(accounts: UsageAccounts, question: UsageQuestion) -> UsageAnswer:
    """Return the answer. Raises SessionNotFound and TurnNotFound."""
    answer = await accounts.usage(question)
    if answer.known:
        return answer
    if question.session_id:
        raise SessionNotFound(question.session_id)
    raise TurnNotFound(question.turn_id)
