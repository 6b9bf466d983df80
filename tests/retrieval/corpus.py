"""Real texts that nobody here wrote: the long descriptions of the installed packages."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions

LEAST_CHARACTERS = 1500
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
CODE = re.compile(r"[={}]")
WORD = re.compile(r"[a-z]{3,}")


def descriptions(count: int) -> dict[str, str]:
    """Return package name to description, the first by name that are long enough."""
    found: dict[str, str] = {}
    for distribution in sorted(distributions(), key=lambda one: one.metadata["Name"].lower()):
        payload = distribution.metadata.json.get("description")
        text = payload if isinstance(payload, str) else ""
        if len(text) >= LEAST_CHARACTERS:
            found.setdefault(distribution.metadata["Name"], text)
    return dict(list(found.items())[:count])


def characteristic_sentence(name: str, texts: Mapping[str, str]) -> str:
    """Return the sentence of that text whose words the other texts use least."""
    spread = Counter(word for text in texts.values() for word in set(_words(text)))
    sentences = [" ".join(one.split()) for one in SENTENCE.split(texts[name])]
    # A sample of code says little of its package.
    prose = [one for one in sentences if not CODE.search(one)]
    plain = [one for one in prose if 60 <= len(one) <= 200 and len(_words(one)) >= 8]
    return min(plain, key=lambda one: _commonness(_words(one), spread))


def _commonness(words: Sequence[str], spread: Mapping[str, int]) -> float:
    return sum(spread[word] for word in words) / len(words)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
