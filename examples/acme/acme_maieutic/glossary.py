"""A tool that tells a model what Acme's terms mean."""

from typing import Annotated

from pydantic import BaseModel, Field

from services.agents.extension import AgentContext, TeamTool, ToolProblem

MEANINGS = {
    "spring line": "The contour on a hillside where the water table meets the surface.",
    "headrace": "The channel that carries water from the dam to the wheel.",
}


class Term(BaseModel):
    """What the model has to give."""

    term: Annotated[str, Field(min_length=1, max_length=100, description="The term, as it stands.")]


async def meaning(context: AgentContext, given: Term) -> str:
    """Return what the term means; `context` tells for whom it is asked."""
    known = MEANINGS.get(given.term.casefold())
    if known is None:
        raise ToolProblem(f"The glossary does not have {given.term!r}.")
    return known


GLOSSARY = TeamTool(
    name="look_up_term",
    description="Tells what a term of Acme's means.",
    form=Term,
    call=meaning,
    notice="Looking into the glossary",
)
