"""What a session knows, as sections that go before the question."""

from maieutic.v1.specification_pb2 import ConflictSeverity
from services.agents.agents.asking import as_data
from services.agents.ports import AgentContext, ModelSection
from services.runtime.standing import open_conflicts, standing_specifications

LAST_QUESTIONS = 20


def summary(context: AgentContext) -> str:
    """Return what was said before the messages that the agent is given; empty if nothing was."""
    text = context.findings.summary.text
    return as_data(text) if text else ""


def specifications(context: AgentContext) -> ModelSection:
    """Return what the user has settled."""
    settled = [
        {
            "id": one.specification_id,
            "category": one.category,
            "key": one.key,
            "value": one.value,
        }
        for one in standing_specifications(context.findings)
    ]
    return ModelSection(name="specifications", text=as_data(settled))


def conflicts(context: AgentContext) -> ModelSection:
    """Return what the user has still to decide."""
    undecided = [
        {
            "first": one.first.value,
            "second": one.second.value,
            "severity": ConflictSeverity.Name(one.severity).rpartition("_")[2].lower(),
            "explanation": one.explanation,
            "suggestion": one.suggestion,
        }
        for one in open_conflicts(context.findings)
    ]
    return ModelSection(name="conflicts", text=as_data(undecided))


def asked(context: AgentContext) -> ModelSection:
    """Return the last questions that agents have asked."""
    questions = [one.text for one in context.findings.questions[-LAST_QUESTIONS:]]
    return ModelSection(name="asked", text=as_data(questions))
