"""How the offline model takes texts apart: into sentences, and into the words that say something.

Pure.
"""

import re

QUOTE_CHARACTERS = 400

_WORD = re.compile(r"\w+")
_PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=\s*[-*#>|])")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")
# Words that say nothing about the topic; a longer list changes little on short texts.
# fmt: off
_STOPWORDS = frozenset({
    "a", "about", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can",
    "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "how",
    "i", "if", "in", "into", "is", "it", "its", "me", "my", "no", "not", "of", "on", "or", "our",
    "she", "should", "so", "some", "tell", "than", "that", "the", "their", "them", "then",
    "there", "these", "they", "this", "to", "was", "we", "were", "what", "when", "where",
    "which", "who", "whom", "whose", "why", "will", "with", "would", "you", "your",
})
# fmt: on


def terms(text: str) -> frozenset[str]:
    """Return the words that tell what a text is about, without their endings."""
    words = (word.casefold() for word in _WORD.findall(text))
    return frozenset(_stem(word) for word in words if word not in _STOPWORDS)


def _stem(word: str) -> str:
    """Make the plural and the simple forms of a word one."""
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:  # noqa: PLR2004 - a stem
            return word.removesuffix(ending)
    return word


def sentences(text: str) -> list[str]:
    """Split into sentences; a line break inside a paragraph ends none, for texts are wrapped."""
    lines = (" ".join(part.split()) for part in _PARAGRAPH_END.split(text))
    parts = (part for line in lines for part in _SENTENCE_END.split(line) if part)
    return [shortened(part, QUOTE_CHARACTERS) for part in parts] or [text.strip()]


def shortened(text: str, limit: int) -> str:
    """Return the text in one line of so many characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
