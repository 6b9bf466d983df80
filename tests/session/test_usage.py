"""What was consumed: the archive tells it, and the live store knows what is not archived yet."""

from uuid import uuid4

import grpc

from maieutic.v1 import usage_admin_service_pb2 as admin_pb, usage_service_pb2 as pb
from tests.session.stack import Stack, User, failure, reason


async def usage(stack: Stack, user: User, **scope: str) -> pb.GetUsageResponse:
    with user.acting():
        return await stack.first.usage.GetUsage(pb.GetUsageRequest(**scope))  # type: ignore[arg-type]


async def test_what_is_not_archived_yet_has_consumed_nothing_to_its_owner_alone(
    stack: Stack,
) -> None:
    user, other = stack.user(), stack.user()
    with stack.archiver.paused():
        turn = await user.begin((await user.create()).session_id)
        for scope in ({"session_id": turn.session_id}, {"turn_id": turn.turn_id}):
            assert await usage(stack, user, **scope) == pb.GetUsageResponse()
            error = await failure(usage(stack, other, **scope))
            assert error.code() is grpc.StatusCode.NOT_FOUND
    await stack.answer(turn.turn_id, "Because.")
    await stack.archived(turn.turn_id)
    for scope in ({"session_id": turn.session_id}, {"turn_id": turn.turn_id}, {}):
        assert (await usage(stack, user, **scope)).total.turn_count == 1


async def test_what_nobody_has_is_not_found(stack: Stack) -> None:
    user = stack.user()
    family = (await user.create()).session_id[:24]
    for scope in ({"session_id": family + uuid4().hex[:24]}, {"turn_id": family + "t" * 24}):
        error = await failure(usage(stack, user, **scope))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_workers_have_no_business_with_a_tenants_usage(stack: Stack) -> None:
    request = admin_pb.GetTenantUsageRequest()
    error = await failure(stack.first.worker_usage_admin.GetTenantUsage(request))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason(error) == "SERVICES_ONLY"
    # The archive here is of a version that has no such accounts, and is told as such.
    error = await failure(stack.first.usage_admin.GetTenantUsage(request))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
