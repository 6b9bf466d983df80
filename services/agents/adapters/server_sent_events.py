"""Server-sent events in the bytes of a response. Pure."""

import re
from collections.abc import Iterator

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class EventReader:
    """Finds the events of one response, whatever the reads in which its bytes come.

    All events of a read at once: the SDK's own reader takes each through three asynchronous
    generators, line by line.
    """

    def __init__(self) -> None:
        self._rest = b""

    def take(self, read: bytes) -> Iterator[str]:
        """Return the data of each event that is whole with this read.

        Raises ValueError for what is not UTF-8. Events without data are left out.
        """
        text = self._rest + read
        # An expression looks at every character; whoever writes no \r can be read without one.
        *events, self._rest = _END.split(text) if b"\r" in text else text.split(b"\n\n")
        return filter(None, map(_data, events))


def _data(event: bytes) -> str:
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line[:5] == b"data:"]
    return b"\n".join(lines).decode()
