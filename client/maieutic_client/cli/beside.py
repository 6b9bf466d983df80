"""What answers have handed on, followed to its end while the conversation goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from maieutic.v1 import turn_service_pb2 as pb
from maieutic_client.cli.outcomes import ending
from maieutic_client.cli.running import explained
from maieutic_client.cli.screen import Screen
from maieutic_client.client import Maieutic
from maieutic_client.errors import MaieuticError

BEGUN = {
    pb.TURN_KIND_CODE: "files are being written beside this conversation (turn {turn_id})",
    pb.TURN_KIND_ANALYSIS: "what you want is being put down (turn {turn_id})",
}
"""What to say of what an answer has begun, by its kind."""
MADE = {
    pb.TURN_KIND_CODE: "save them with: maieutic artifacts save {turn_id} FOLDER",
    pb.TURN_KIND_ANALYSIS: "what you want is put down: maieutic specs list {session_id}",
}
"""What to say of it once it is done."""


class Beside:
    """The turns that answers have handed on."""

    def __init__(self, client: Maieutic, screen: Screen, session_id: str) -> None:
        self.screen_free = asyncio.Lock()
        """Whoever shows an answer holds it: nothing is told in the middle of one."""
        self.failed = False
        """Whether one of them did not come to a good end."""
        self._client = client
        self._screen = screen
        self._session_id = session_id
        self._watching: list[asyncio.Task[None]] = []

    def follow(self, handed_on: pb.HandedOn) -> None:
        """Tell of a turn, and of its end once that has come."""
        if not handed_on.turn_id:
            self.failed = True
            self._screen.problem(handed_on.problem)
            return
        begun = BEGUN.get(handed_on.kind, "turn {turn_id} was begun beside this conversation")
        self._screen.aside(begun.format(turn_id=handed_on.turn_id))
        self._watching.append(asyncio.create_task(self._watch(handed_on)))

    async def end(self) -> None:
        """Wait until all have ended."""
        if any(not task.done() for task in self._watching):
            self._screen.aside("waiting for what was begun; Ctrl-C leaves it to the backend")
        await asyncio.gather(*self._watching)

    async def leave(self) -> None:
        """Watch no longer; the turns go on by themselves."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _watch(self, handed_on: pb.HandedOn) -> None:
        problem, text = "", ""
        try:
            outcome = await self._client.turns.watch(handed_on.turn_id).result()
            text = outcome.text
            if outcome.state != pb.TURN_STATE_COMPLETED:
                problem = ending(outcome)
        except MaieuticError as error:
            problem = explained(error)
        async with self.screen_free:
            self._screen.aside("")  # out of the line of a prompt
            if text:
                self._screen.aside(text)
            if problem:
                self.failed = True
                self._screen.problem(f"turn {handed_on.turn_id}: {problem}")
                return
            made = MADE.get(handed_on.kind, "turn {turn_id} is done")
            self._screen.aside(made.format(turn_id=handed_on.turn_id, session_id=self._session_id))


@asynccontextmanager
async def beside(client: Maieutic, screen: Screen, session_id: str) -> AsyncIterator[Beside]:
    """Follow what is handed on in the block, whose end waits for it unless it is broken off."""
    following = Beside(client, screen, session_id)
    try:
        yield following
        await following.end()
    finally:
        await following.leave()
