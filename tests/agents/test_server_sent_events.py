"""Server-sent events in the bytes of a response."""

import pytest

from services.agents.adapters.server_sent_events import EventReader

STREAM = """event: word
data: {"text": "é"}

: a comment

data:one
data: two
id: 7

event: ping

"""
EVENTS = ['{"text": "é"}', "one\ntwo"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_whatever_the_reads_and_the_line_ends(line_end: str, size: int) -> None:
    reader, stream = EventReader(), STREAM.replace("\n", line_end).encode()
    reads = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [event for read in reads for event in reader.take(read)] == EVENTS


def test_an_event_that_has_not_ended_is_not_told() -> None:
    reader = EventReader()
    assert list(reader.take(b"data: one\n")) == []
    assert list(reader.take(b"\ndata: two\n")) == ["one"]


def test_what_is_not_utf_8_is_refused_after_the_events_before_it() -> None:
    events = EventReader().take(b"data: one\n\ndata: \xff\n\n")
    assert next(events) == "one"
    with pytest.raises(ValueError, match="utf-8"):
        next(events)
