"""What follows from the citations of an answer's claims. Pure."""

from collections import Counter
from collections.abc import Sequence

from maieutic.v1.document_service_pb2 import Document
from maieutic.v1.support_pb2 import (
    VERDICT_CONTRADICTED,
    VERDICT_MIXED,
    VERDICT_SUPPORTED,
    VERDICT_UNSUPPORTED,
    Claim,
    SupportCoverage,
    SupportDocument,
    SupportReport,
    Verdict,
)

MOST_DOCUMENTS = 100
"""That a report names."""


def complete(report: SupportReport, documents: Sequence[Document]) -> None:
    """Give the claims their verdicts, and say how much of the answer the documents cover."""
    for claim in report.claims:
        claim.verdict = _verdict(claim)
    verdicts = Counter(claim.verdict for claim in report.claims)
    total = len(report.claims) or 1
    report.coverage.CopyFrom(
        SupportCoverage(
            supported=verdicts[VERDICT_SUPPORTED] / total,
            contradicted=verdicts[VERDICT_CONTRADICTED] / total,
            mixed=verdicts[VERDICT_MIXED] / total,
            unsupported=verdicts[VERDICT_UNSUPPORTED] / total,
        )
    )
    report.documents_searched = len(documents)
    report.documents.extend(_named(report.claims, documents))


def _verdict(claim: Claim) -> Verdict.ValueType:
    if claim.supporting and claim.contradicting:
        return VERDICT_MIXED
    if claim.supporting:
        return VERDICT_SUPPORTED
    return VERDICT_CONTRADICTED if claim.contradicting else VERDICT_UNSUPPORTED


def _named(claims: Sequence[Claim], documents: Sequence[Document]) -> list[SupportDocument]:
    """Return the documents, the most cited first."""
    cited = Counter(
        citation.document_id
        for claim in claims
        for citation in (*claim.supporting, *claim.contradicting)
    )
    named = [
        SupportDocument(
            document_id=one.document_id,
            document_name=one.name,
            citations=cited[one.document_id],
        )
        for one in documents
    ]
    return sorted(named, key=lambda one: -one.citations)[:MOST_DOCUMENTS]
