"""Small working accounts: each turn of the fake conversations is a call, a token for each word."""

from collections import defaultdict

from maieutic.v1 import (
    turn_service_pb2 as turn_pb,
    usage_admin_service_pb2 as admin_pb,
    usage_service_pb2 as pb,
)
from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceServicer
from maieutic.v1.usage_service_pb2_grpc import UsageServiceServicer
from services.runtime.errors import NotFound
from services.runtime.identity import current_identity
from tests.fakes.conversations import Context, Conversations, Owner, page_of

MODEL = "echo"
PRICE = 1_500_000
"""Millionths of a dollar for a call."""


class FakeUsage(UsageServiceServicer, UsageAdminServiceServicer):
    """Rows by session, user and model, two a page."""

    def __init__(self, state: Conversations) -> None:
        self._state = state

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        state = self._state
        if request.session_id:
            state.session(request.session_id)
        if request.turn_id:
            state.turn(request.turn_id)
        return _answer(request, [one for one in state.turns.values() if one[0] == state.owner()])

    async def GetTenantUsage(
        self, request: admin_pb.GetTenantUsageRequest, context: Context
    ) -> admin_pb.GetTenantUsageResponse:
        tenant = request.tenant or current_identity().tenant
        turns = [one for one in self._state.turns.values() if one[0][0] == tenant]
        turns = [one for one in turns if request.user_id in ("", one[0][1])]
        answer = _answer(request, turns)
        if not answer.rows and request.session_id:
            raise NotFound("session", request.session_id)
        return admin_pb.GetTenantUsageResponse.FromString(answer.SerializeToString())


def _answer(
    request: pb.GetUsageRequest | admin_pb.GetTenantUsageRequest,
    turns: list[tuple[Owner, turn_pb.Turn]],
) -> pb.GetUsageResponse:
    rows: dict[tuple[str, ...], pb.UsageRow] = defaultdict(pb.UsageRow)
    whole = pb.UsageTotal()
    for (_, user), turn in turns:
        if request.session_id not in ("", turn.session_id):
            continue
        if request.turn_id not in ("", turn.turn_id):
            continue
        fields = {
            pb.USAGE_KEY_SESSION: ("session_id", turn.session_id),
            pb.USAGE_KEY_USER: ("user_id", user),
            pb.USAGE_KEY_MODEL: ("model", MODEL),
        }
        keys = dict(fields[key] for key in request.group_by if key in fields)
        row = rows[tuple(keys.values())]
        for name, text in keys.items():
            setattr(row, name, text)
        for total in (row.total, whole):
            _add(total, turn)
    page, token = page_of(
        [rows[key] for key in sorted(rows)], request.page_size or 2, request.page_token
    )
    return pb.GetUsageResponse(rows=page, total=whole, next_page_token=token)


def _add(total: pb.UsageTotal, turn: turn_pb.Turn) -> None:
    total.call_count += 1
    total.turn_count += 1
    total.input_tokens += len(turn.text.split())
    if not total.costs:
        total.costs.add(currency="USD")
    total.costs[0].micros += PRICE
