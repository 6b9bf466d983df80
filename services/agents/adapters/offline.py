"""A model that works without any network: it quotes, and says that it only quotes."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType

from services.agents.adapters.offline_code import file_text
from services.agents.adapters.offline_forms import filled_form, next_question
from services.agents.adapters.offline_intents import (
    asks_for_passages,
    order_carried_out,
    order_in,
)
from services.agents.adapters.offline_summary import lines_of, summed_up
from services.agents.adapters.offline_words import sentences, shortened, terms
from services.agents.errors import ModelRejected
from services.agents.ports import (
    Author,
    ModelEvent,
    ModelPassage,
    ModelRequest,
    ModelUsage,
    TextDelta,
)

MODEL_NAME = "offline-extractive-1"
MAX_QUOTES = 3
MAX_TOPICS = 10
PASSAGE_CHARACTERS = 600
TOPIC_CHARACTERS = 120

OFFLINE = "I am the offline model: I quote and do not reason."

_CHUNK = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+$")
_SUMMARY = re.compile(
    r"\bsummar|\bsum up\b|\brecap\b|\bwhat (?:did|have|were) we (?:talk|discuss|spoke|speak)",
    re.IGNORECASE,
)

_BY_STEP: Mapping[str, Callable[[ModelRequest], str]] = MappingProxyType(
    {"code_file": file_text, "socratic": next_question, "summary": summed_up}
)
"""How the steps are taken that are not answers to a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quote:
    """A sentence with what it shares with the question."""

    score: float
    number: int
    """Of its passage, or the position of its message."""
    text: str


class OfflineModel:
    """Answers with the sentences nearest to the question by shared words; deterministic.

    `chunk_delay` is the pause in seconds before each word, so that streaming can be watched.
    """

    def __init__(self, *, chunk_delay: float = 0.0) -> None:
        self._chunk_delay = chunk_delay

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        if not request.messages or request.messages[-1].author is not Author.USER:
            raise ModelRejected("the last message must be the user's")
        events = self._events(request)
        try:
            yield events
        finally:
            await events.aclose()

    async def _events(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        wait = order_in(request)
        whole = "" if wait else answer(request)
        said = _limited(whole, request.max_tokens)
        chunks = _CHUNK.findall(said)
        for chunk in chunks:
            await asyncio.sleep(0 if request.schema else self._chunk_delay)
            yield TextDelta(text=chunk)
        if wait:
            yield wait
        messages = (message.text for message in request.messages)
        read = (request.system, request.summary, request.grounding, *messages)
        yield ModelUsage(
            model=MODEL_NAME,
            input_tokens=sum(len(text.split()) for text in read),
            output_tokens=len(chunks),
            cut=said != whole,
        )


def answer(request: ModelRequest) -> str:
    """Return the whole answer; the same for the same request."""
    if (form := filled_form(request)) is not None:
        return form
    if (special := _BY_STEP.get(request.step)) is not None:
        return special(request)
    if done := order_carried_out(request):
        return f"{OFFLINE} {done}"
    question = request.messages[-1].text
    if _SUMMARY.search(question):
        return _topics(request)
    if request.passages:
        return _from_passages(question, request.passages)
    return _from_conversation(question, request)


def _topics(request: ModelRequest) -> str:
    asked = [m.text for m in request.messages[:-1] if m.author is Author.USER]
    if not asked:
        return f"{OFFLINE} This is the first question I can see, so there is nothing to sum up."
    lines = [f"- {shortened(text, TOPIC_CHARACTERS)}" for text in asked[-MAX_TOPICS:]]
    return "\n".join([f"{OFFLINE} So far you asked about:", *lines])


def _listed(passages: Sequence[ModelPassage]) -> str:
    lines = [
        f"{p.document_name}: “{shortened(p.text, PASSAGE_CHARACTERS)}” [{p.number}]"
        for p in passages
    ]
    return "\n\n".join([f"{OFFLINE} I have found these passages:", *lines])


def _from_passages(question: str, passages: Sequence[ModelPassage]) -> str:
    if asks_for_passages(question):
        return _listed(passages)
    quotes = _nearest(question, [(p.number, p.text) for p in passages])
    if quotes:
        lines = [f"“{quote.text}” [{quote.number}]" for quote in quotes]
        return "\n\n".join([f"{OFFLINE} The documents say:", *lines])
    first = passages[0]
    return (
        f"{OFFLINE} No sentence of the documents shares a word with your question. "
        f"The nearest passage begins: “{sentences(first.text)[0]}” [{first.number}]"
    )


def _from_conversation(question: str, request: ModelRequest) -> str:
    earlier = [
        (position, message.text)
        for position, message in enumerate(request.messages[:-1])
        if message.author is Author.USER
    ]
    remembered = [(position, line) for position, line in enumerate(lines_of(request.summary))]
    quotes = _nearest(question, [*remembered, *earlier])
    opening = f"{OFFLINE} No documents support this answer; it is drawn from our conversation."
    if not quotes:
        return f"{opening} Nothing said so far bears on your question."
    return "\n\n".join([f"{opening} Earlier you said:", *(f"“{quote.text}”" for quote in quotes)])


def _nearest(question: str, texts: Sequence[tuple[int, str]]) -> list[_Quote]:
    """Return the best sentences, best first; of equal ones the earlier."""
    wanted = terms(question)
    quotes = [
        _Quote(score=_overlap(wanted, terms(sentence)), number=number, text=sentence)
        for number, text in texts
        for sentence in sentences(text)
    ]
    found = sorted((q for q in quotes if q.score > 0), key=lambda q: -q.score)
    unique = {quote.text: quote for quote in reversed(found)}
    return [quote for quote in found if unique[quote.text] is quote][:MAX_QUOTES]


def _overlap(wanted: frozenset[str], said: frozenset[str]) -> float:
    # The small second part prefers, of sentences with the same hits, the one that says less else.
    hits = len(wanted & said)
    return hits + hits / (1 + len(said)) if hits else 0.0


def _limited(text: str, words: int | None) -> str:
    """Cut *text* after so many words, keeping its spacing."""
    if words is None:
        return text
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    return text if len(ends) <= words else text[: ends[words - 1]]
