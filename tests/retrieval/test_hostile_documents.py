"""Hostile documents through the whole service: their sender is refused, nobody else notices."""

import asyncio

from maieutic.v1 import document_service_pb2 as pb
from services.runtime.errors import InvalidArgument, ServiceError
from tests.retrieval.parsing.test_hostile import ATTACKS
from tests.retrieval.running import Retrieval, User

LEFT_OUT = frozenset(
    {
        # Too large for a call.
        "one line of 50 MB",
        "page of 50 MB",
        "rows that never end",
        # Costly to make.
        "zip bomb",
    }
)


async def ended(user: User, case: str) -> ServiceError | pb.AddDocumentResponse:
    attack = ATTACKS[case]
    data = await asyncio.to_thread(attack.make)
    form = pb.DocumentFormat.Value(f"DOCUMENT_FORMAT_{attack.form}")
    try:
        return await user.add(data, form=form, name="report.bin")
    except ServiceError as error:
        return error


async def test_hostile_documents_sent_at_once_are_refused_by_name_and_others_are_found(
    retrieval: Retrieval,
) -> None:
    mallory, ana = retrieval.user("mallory"), retrieval.user("ana")
    cases = [case for case in ATTACKS if case not in LEFT_OUT]
    adding = asyncio.create_task(ana.add("Storks nest on chimneys."))
    outcomes = await asyncio.gather(*(ended(mallory, case) for case in cases))
    assert (await adding).document.state == pb.DOCUMENT_STATE_READY
    for case, outcome in zip(cases, outcomes, strict=True):
        if isinstance(outcome, ServiceError):
            assert isinstance(outcome, InvalidArgument), (case, outcome)
            assert "report.bin" in str(outcome), case
        else:
            assert ATTACKS[case].text, case
            assert outcome.document.state == pb.DOCUMENT_STATE_READY
    found = await ana.search("Where do storks nest?", limit=50)
    assert [passage.text for passage in found] == ["Storks nest on chimneys."]
