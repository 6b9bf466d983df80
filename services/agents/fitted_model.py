"""Any model, asked for no more than it can read at once."""

from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from services.agents.context_limit import ContextOptions, fitted, shortened, too_large
from services.agents.errors import ContextTooLarge
from services.agents.ports import Model, ModelEvent, ModelRequest, ModelUsage
from services.agents.tokens import estimated_tokens

LEAST_ESTIMATE = 1000
"""Tokens: smaller calls say little about how good the estimate is."""
CALLS = 32
"""So many last calls of a model tell how many tokens it makes of a text."""
LESS = 0.5
"""Of what a model has refused as too much."""


class FittedModel:
    """See `ports.Model`. Raises ContextTooLarge before a call that cannot fit.

    How much a call reads is estimated, and the estimate is corrected by what the model's last
    calls have really read, upwards only. A model that refuses a call as too large all the same is
    asked once more, with half of it.
    """

    def __init__(
        self, model: Model, *, options: ContextOptions, name: str, max_tokens: int
    ) -> None:
        """*name* and *max_tokens* are the model's where a request says nothing else."""
        self._model = model
        self._options = options
        self._name = name
        self._max_tokens = max_tokens
        self._factors: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=CALLS))

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call, with as much of the conversation as fits."""
        most = min(request.max_tokens or self._max_tokens, self._max_tokens)
        name = request.model or self._name
        room, factor = self._options.room(name, most), max([1.0, *self._factors[name]])
        asked = fitted(request, room, factor)
        async with AsyncExitStack() as stack:
            try:
                events = await stack.enter_async_context(self._model.stream(asked))
            except ContextTooLarge as error:
                asked = _less(asked, factor, error)
                events = await stack.enter_async_context(self._model.stream(asked))
            yield await stack.enter_async_context(aclosing(self._compared(events, asked, name)))

    async def _compared(
        self, events: AsyncIterator[ModelEvent], asked: ModelRequest, name: str
    ) -> AsyncGenerator[ModelEvent, None]:
        read = 0
        async for event in events:
            if isinstance(event, ModelUsage):
                read = event.input_tokens
            yield event
        if (estimate := estimated_tokens(asked)) >= LEAST_ESTIMATE:
            self._factors[name].append(read / estimate)


def _less(asked: ModelRequest, factor: float, error: ContextTooLarge) -> ModelRequest:
    """Return the call without much of its conversation; raises ContextTooLarge if there is none."""
    less = shortened(asked, round(LESS * factor * estimated_tokens(asked)), factor)
    if less.messages == asked.messages:
        raise too_large(less, factor, str(error)) from error
    return less
