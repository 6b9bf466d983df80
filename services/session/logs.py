"""Reading a turn's event log as a whole."""

from services.session.frames import Entry, text_of
from services.session.ports import SessionStore

PAGE = 500


async def read_log(store: SessionStore, turn_id: str) -> list[Entry]:
    """Return all that is left of a turn's log; nothing if it is gone."""
    entries: list[Entry] = []
    after = None
    while page := await store.events(turn_id, after, PAGE):
        entries += page
        after = page[-1][0]
    return entries


async def text_said(store: SessionStore, turn_id: str) -> str:
    """Return the text that a turn's log ends with."""
    return text_of(frame for _, frame in await read_log(store, turn_id))
