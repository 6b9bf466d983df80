"""A file's text without the code fence that models like to put around it. Pure."""

import re

_OPENING = re.compile(r"\s*```[ \t]*(?P<language>[\w+#.-]*)[ \t]*\r?\n")
_MAY_OPEN = re.compile(r"\s*(?:`{0,2}|```[ \t]*[\w+#.-]*[ \t]*\r?)")
_MAY_CLOSE = re.compile(r"\n[ \t]*`{0,3}\s*\Z")
_CLOSING = re.compile(r"\s*```\s*")
_MARKDOWN = frozenset({"markdown", "md"})


class Unfenced:
    """Takes a text piece by piece, and gives it on without a fence around the whole.

    A Markdown file may have fences of its own: there only one that says so is taken for one.
    """

    def __init__(self, path: str) -> None:
        self._markdown = path.lower().endswith(".md")
        self._held = ""
        """Not given on yet: the beginning while it may be a fence, or the end while it may."""
        self._begun = False
        self._fenced = False
        self._opening = ""
        """What is still to be taken off the beginning."""

    def take(self, text: str) -> str:
        """Return what is certain to belong to the file by now."""
        self._held += text
        if not self._begun and not self._begin():
            return ""
        if not self._fenced:
            return self._given(len(self._held))
        closing = _MAY_CLOSE.search(self._held)
        return self._given(closing.start() if closing else len(self._held))

    def end(self) -> str:
        """Return the rest."""
        if self._fenced and _CLOSING.fullmatch(self._held):
            return "" if self._opening else "\n"
        return self._held.removeprefix(self._opening)

    def _begin(self) -> bool:
        """Decide how the text begins; False if that cannot be said yet."""
        if (opening := _OPENING.match(self._held)) is not None:
            wanted = not self._markdown or opening["language"].lower() in _MARKDOWN
            self._begun, self._fenced = True, wanted
            # The end of its line is kept at first: the closing fence may follow at once.
            self._opening = "\n" if wanted else ""
            self._held = self._held[opening.end() - 1 :] if wanted else self._held
        elif not _MAY_OPEN.fullmatch(self._held):
            self._begun = True
        return self._begun

    def _given(self, length: int) -> str:
        given, self._held = self._held[:length], self._held[length:]
        if given:
            given, self._opening = given.removeprefix(self._opening), ""
        return given
