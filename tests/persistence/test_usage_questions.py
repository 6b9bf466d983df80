"""What is asked of the accounts is checked, also behind the gateway."""

from base64 import urlsafe_b64encode
from typing import Any

import pytest

from maieutic.v1.usage_service_pb2 import (
    USAGE_KEY_DAY,
    USAGE_KEY_MODEL,
    GetUsageRequest,
    UsageKey,
)
from services.persistence.usage_ports import UsageQuestion
from services.persistence.usage_questions import question_of, token_of
from services.runtime.errors import InvalidArgument

PLACE = ("2026-03-01", "m\u00e9")


def asked(*, tenant: str = "acme", user: str = "ada", **fields: Any) -> UsageQuestion:
    given = {"group_by": [USAGE_KEY_DAY, USAGE_KEY_MODEL], **fields}
    return question_of(GetUsageRequest(**given), tenant=tenant, user_id=user)


def test_a_page_token_names_the_place_after_which_to_go_on() -> None:
    token = token_of(asked(), PLACE)
    assert asked(page_token=token).after == PLACE
    # However many rows a page has, it is the same question.
    assert asked(page_token=token, page_size=7).after == PLACE
    assert token_of(asked(page_token=token), PLACE) == token
    assert token_of(asked(), None) == ""


@pytest.mark.parametrize(
    "other",
    [
        {"user": "bob"},
        {"tenant": "zenith"},
        {"group_by": [USAGE_KEY_MODEL, USAGE_KEY_DAY]},
        {"session_id": "s" * 48},
        {"start_time": {"seconds": 1}},
    ],
)
def test_a_page_token_of_another_question_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="page_token: must be next_page_token"):
        asked(page_token=token_of(asked(), PLACE), **other)


@pytest.mark.parametrize(
    "token", ["x", "é", "!!!!", "a" * 4096, urlsafe_b64encode(b"\xff" * 30).decode()]
)
def test_a_page_token_that_was_made_up_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="page_token"):
        asked(page_token=token)


def test_a_page_token_that_was_cut_is_refused() -> None:
    whole = token_of(asked(), PLACE)
    for end in range(1, 16):
        with pytest.raises(InvalidArgument, match="page_token"):
            asked(page_token=whole[:end])


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("end_time", {"start_time": {"seconds": 5}, "end_time": {"seconds": 5}}),
        ("start_time", {"start_time": {"seconds": 2**62}}),
        ("end_time", {"end_time": {"seconds": 5, "nanos": -1}}),
        ("group_by", {"group_by": [USAGE_KEY_DAY, USAGE_KEY_DAY]}),
        ("group_by", {"group_by": [UsageKey.ValueType(0)]}),
        ("group_by", {"group_by": [UsageKey.ValueType(99)]}),
        ("page_size", {"page_size": 1001}),
        ("page_size", {"page_size": -1}),
        ("user_id", {"user": "a\0b"}),
        ("tenant", {"tenant": "a\0b"}),
    ],
)
def test_a_wrong_field_is_named(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=f"^{field}: "):
        asked(**fields)
