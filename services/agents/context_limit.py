"""What fits a model: the oldest exchanges go out until it can read what is left at once. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.agents.errors import ContextTooLarge
from services.agents.model_names import of_model
from services.agents.ports import Author, ModelMessage, ModelRequest
from services.agents.tokens import estimated_parts, estimated_tokens, message_tokens

NAMED = 3
"""So many of the largest parts are named to whoever asked for too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """How much models can read at once; what does not fit of a conversation is left out."""

    tokens: int = 200_000
    """Tokens of one call, those of the answer included."""

    models: Mapping[str, int] = field(default_factory=dict)
    """JSON object: model, or the beginning of names and an asterisk, to its tokens where they
    differ, as {"claude-x*": 1000000}."""

    margin: int = 2_000
    """Tokens that are left free besides: nobody has counted what a call reads before it is made."""

    def room(self, model: str, max_tokens: int) -> int:
        """Return how many tokens a call may read if its answer may have *max_tokens*."""
        return (of_model(self.models, model) or self.tokens) - max_tokens - self.margin


def fitted(request: ModelRequest, room: int, factor: float) -> ModelRequest:
    """Leave out the oldest exchanges until the call reads no more than *room* tokens.

    *factor* is how many tokens the model makes of what is estimated as one. The last message, the
    summary and all that is known stay. Raises ContextTooLarge if they are too much by themselves.
    """
    if factor * estimated_tokens(request) <= room:
        return request
    left = shortened(request, room, factor)
    if factor * estimated_tokens(left) > room:
        raise too_large(left, factor, f"The model can read {max(0, room)} tokens at once")
    return left


def shortened(request: ModelRequest, room: int, factor: float) -> ModelRequest:
    """Do the same, as far as there are exchanges to leave out."""
    reads = factor * estimated_tokens(request)
    messages = request.messages
    while reads > room and (oldest := _oldest_exchange(messages)):
        reads -= factor * sum(message_tokens(message.text) for message in oldest)
        messages = messages[len(oldest) :]
    left_out = request.left_out + len(request.messages) - len(messages)
    return replace(request, messages=messages, left_out=left_out)


def _oldest_exchange(messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
    """Return the first messages up to the next one of the user's; none of the last message."""
    earlier = messages[:-1]
    ends = (n for n in range(1, len(earlier)) if earlier[n].author is Author.USER)
    return earlier[: next(ends, len(earlier))]


def too_large(request: ModelRequest, factor: float, limit: str) -> ContextTooLarge:
    """Return what to say of a call that does not fit the *limit*, with what is large in it."""
    parts = {name: round(factor * size) for name, size in estimated_parts(request).items()}
    largest = sorted(parts, key=lambda name: -parts[name])[:NAMED]
    named = ", ".join(f"{name} about {parts[name]}" for name in largest if parts[name])
    return ContextTooLarge(
        f"{limit}, and this needs about {sum(parts.values())} without the conversation before it: "
        f"{named}. Shorten the question, ask of fewer documents, or let the operator name a model "
        "that reads more."
    )
