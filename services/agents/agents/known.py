"""What a session knows, as sections that go before the question."""

from services.agents.agents.asking import as_data
from services.agents.ports import AgentContext, ModelSection

LAST_QUESTIONS = 20


def specifications(context: AgentContext) -> ModelSection:
    """Return what the user has settled."""
    standing = [
        {
            "id": one.specification_id,
            "category": one.category,
            "key": one.key,
            "value": one.value,
        }
        for one in context.findings.specifications
        if not one.withdrawn
    ]
    return ModelSection(name="specifications", text=as_data(standing))


def conflicts(context: AgentContext) -> ModelSection:
    """Return what the user has still to decide."""
    standing = {
        one.specification_id for one in context.findings.specifications if not one.withdrawn
    }
    open_ones = [
        {
            "first": one.first.value,
            "second": one.second.value,
            "explanation": one.explanation,
            "suggestion": one.suggestion,
        }
        for one in context.findings.conflicts
        if not one.HasField("resolution")
        and {one.first.specification_id, one.second.specification_id} <= standing
    ]
    return ModelSection(name="conflicts", text=as_data(open_ones))


def asked(context: AgentContext) -> ModelSection:
    """Return the last questions that agents have asked."""
    questions = [one.text for one in context.findings.questions[-LAST_QUESTIONS:]]
    return ModelSection(name="asked", text=as_data(questions))
