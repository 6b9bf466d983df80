"""Reading a turn's event log as a whole."""

from services.session.frames import Story
from services.session.ports import SessionStore

PAGE = 500


async def story_of(store: SessionStore, turn_id: str) -> Story:
    """Read all that is left of a turn's log, page by page; only what it says is held."""
    story, after = Story(), None
    while page := await store.events(turn_id, after, PAGE):
        story.read(page)
        after = page[-1][0]
    return story
