"""Lines of text with the marks of Markdown, from elements that come one after another."""

import re

BLANKS = re.compile(r"\s+")
FENCE = "```"


class Lines:
    """Collects what a reader sees; a row of a table is one line, whatever is in its cells."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        self._cells = 0
        """Of the row that is open."""
        self._code = False

    def add(self, text: str) -> None:
        """Go on with the line."""
        if not self._code:
            self._line.append(text)
            return
        *whole, rest = text.split("\n")
        for line in whole:
            self._line.append(line)
            self.end_line()
        self._line.append(rest)

    def begin_cell(self) -> None:
        """Begin a cell of the row."""
        self._line.append(" | " if self._cells else "| ")
        self._cells += 1

    def end_row(self) -> None:
        """End the row, if one is open."""
        if self._cells:
            self._line.append(" |")
        self._cells = 0
        self.end_line()

    def end_line(self) -> None:
        """End the line, if there is something in it."""
        # In a cell this would tear the row.
        if self._cells:
            self._line.append(" ")
            return
        text = "".join(self._line)
        self._line.clear()
        if self._code:
            self._lines.append(text)
        elif line := BLANKS.sub(" ", text).strip():
            self._lines.append(line)

    def end_block(self) -> None:
        """End the paragraph: a blank line follows."""
        self.end_line()
        if self._lines and self._lines[-1] and not (self._cells or self._code):
            self._lines.append("")

    def begin_code(self) -> None:
        """Keep lines as they are from here."""
        self.end_block()
        if not self._cells:
            self._lines.append(FENCE)
            self._code = True

    def end_code(self) -> None:
        """Keep lines as they are no longer."""
        if self._code:
            self.end_line()
            self._lines.append(FENCE)
            self._code = False

    def text(self) -> str:
        """Return all lines."""
        self.end_code()
        self.end_row()
        return "\n".join(self._lines).strip()
