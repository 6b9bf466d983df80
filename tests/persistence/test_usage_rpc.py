"""The accounts over gRPC, as the session service asks for callers and for admins."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maieutic.v1.usage_admin_service_pb2 import GetTenantUsageRequest
from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceStub
from maieutic.v1.usage_service_pb2 import USAGE_KEY_USER, GetUsageRequest
from maieutic.v1.usage_service_pb2_grpc import UsageServiceStub
from services.runtime.identity import acting_for
from tests.contracts.archives import sqlite_harness
from tests.persistence.office import Office, office
from tests.persistence.stories import TENANT, USER, Story, fact
from tests.session.stack import bad_field, failure

USERS = (USER, "bob", "eve")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Office]:
    """Three users of a tenant, and one of another; each has made one call."""
    stories = [*(Story(user, user=user) for user in USERS), Story("away", tenant="zenith")]
    async with sqlite_harness(tmp_path) as harness, office(harness.archive) as opened:
        await harness.archive.apply([fact(story.used("a:1")) for story in stories])
        yield opened


async def test_a_caller_has_its_own_and_an_admin_everybodys(running: Office) -> None:
    mine, other = Story(USER), Story("bob", user="bob")
    async with running.channel("session") as channel:
        own, everybodys = UsageServiceStub(channel), UsageAdminServiceStub(channel)
        with acting_for(TENANT, USER):
            assert (await own.GetUsage(GetUsageRequest())).total.call_count == 1
            request = GetUsageRequest(session_id=mine.session_id)
            assert (await own.GetUsage(request)).total.call_count == 1
            for request in (
                GetUsageRequest(session_id=other.session_id),
                GetUsageRequest(turn_id=other.turn_id(1)),
            ):
                assert (await failure(own.GetUsage(request))).code().name == "NOT_FOUND"
            # Of the admin's own tenant, or of the one that is named.
            asked = GetTenantUsageRequest()
            assert (await everybodys.GetTenantUsage(asked)).total.call_count == 3
            asked = GetTenantUsageRequest(tenant="zenith")
            assert (await everybodys.GetTenantUsage(asked)).total.call_count == 1
            asked = GetTenantUsageRequest(user_id="bob")
            assert (await everybodys.GetTenantUsage(asked)).total.call_count == 1
            asked = GetTenantUsageRequest(tenant="zenith", session_id=mine.session_id)
            error = await failure(everybodys.GetTenantUsage(asked))
            assert error.code().name == "NOT_FOUND"


async def test_the_pages_of_a_question_have_each_row_once(running: Office) -> None:
    request = GetTenantUsageRequest(group_by=[USAGE_KEY_USER], page_size=2)
    seen: list[str] = []
    async with running.channel("session") as channel:
        with acting_for(TENANT, "admin"):
            stub = UsageAdminServiceStub(channel)
            for last in (False, True):
                page = await stub.GetTenantUsage(request)
                assert (page.total.call_count, bool(page.next_page_token)) == (3, not last)
                seen += [row.user_id for row in page.rows]
                request.page_token = page.next_page_token or request.page_token
            request.tenant = "zenith"
            assert bad_field(await failure(stub.GetTenantUsage(request))) == "page_token"
    assert seen == list(USERS)


async def test_only_services_are_answered(running: Office) -> None:
    async with running.channel("gateway") as channel:
        with acting_for(TENANT, USER):
            for call in (
                UsageServiceStub(channel).GetUsage(GetUsageRequest()),
                UsageAdminServiceStub(channel).GetTenantUsage(GetTenantUsageRequest()),
            ):
                assert (await failure(call)).code().name == "PERMISSION_DENIED"
