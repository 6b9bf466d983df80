"""`python -m services.demo`: exit status 0 only if every expectation held."""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from maieutic_client import Maieutic, MaieuticError
from services.demo.backend import Backend, BackendFailed
from services.demo.conversation import Conversation
from services.demo.corpus import installed_texts
from services.demo.generation import Generation
from services.demo.interview import Interview
from services.demo.proofs import Proofs
from services.demo.screen import Screen


async def demonstrate(screen: Screen) -> Proofs:
    """Hold both conversations on a backend of its own, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="maieutic-demo-") as home:
        backend = Backend(Path(home), dict(os.environ))
        started = time.monotonic()
        await backend.start()
        screen.line(f"ready to talk after {time.monotonic() - started:.1f} s")
        proofs = Proofs()
        try:
            async with backend.client() as client:
                talk = Conversation(backend=backend, client=client, screen=screen, proofs=proofs)
                await converse(talk)
                await interview(client, screen, proofs, Path(home) / "files")
        finally:
            await backend.stop()
        return proofs


async def converse(talk: Conversation) -> None:
    """Ask about real documents, and break what can break meanwhile."""
    await talk.begin(await talk.ingest(installed_texts()))
    await talk.ask_questions()
    await talk.cut_and_resume()
    await talk.kill_worker()
    await talk.summarise()
    await talk.restart()


async def interview(client: Maieutic, screen: Screen, proofs: Proofs, folder: Path) -> None:
    """Let the agent ask, decide what contradicts, and have code written, saved in *folder*."""
    talk = Interview(client=client, screen=screen, proofs=proofs)
    await talk.hold()
    await talk.decide()
    code = Generation(
        client=client, screen=screen, proofs=proofs, session_id=talk.session_id, folder=folder
    )
    await code.write()


def main() -> int:
    """Run the demonstration and say what it proved."""
    screen = Screen(Console())
    try:
        proofs = asyncio.run(demonstrate(screen))
    except (BackendFailed, MaieuticError) as error:
        screen.line(f"The demonstration broke off: {error}", style="red")
        return 1
    return verdict(screen, proofs)


def verdict(screen: Screen, proofs: Proofs) -> int:
    """Show what was proved, and return the exit status."""
    screen.summary(proofs)
    held = sum(proof.held for proof in proofs.proofs)
    said = "All of it held." if proofs.all_held else "Not all of it held."
    screen.line(f"{said} {held} of {len(proofs.proofs)} expectations.")
    return 0 if proofs.all_held else 1


if __name__ == "__main__":
    sys.exit(main())
