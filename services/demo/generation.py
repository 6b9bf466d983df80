"""The code of the Socratic conversation: written file by file, saved, and looked at."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED, TurnFile
from maieutic_client import Maieutic
from services.demo.proofs import Proofs
from services.demo.screen import Screen

SHOWN_LINES = 9


@dataclass(slots=True)
class Generation:
    """The files from one session's specifications, and what they have proved."""

    client: Maieutic
    screen: Screen
    proofs: Proofs
    session_id: str
    folder: Path
    """Where the files are saved."""

    async def write(self) -> None:
        """Have the files written, save them, and look at what is in them."""
        self.screen.title("Code from what was settled")
        request_id = str(uuid.uuid4())
        stream = self.client.turns.generate_code(self.session_id, request_id=request_id)
        async for frame in stream:
            if frame.HasField("file"):
                self._show(frame.file)
        outcome = await stream.result()
        texts = await self._saved(stream.turn_id)
        self._compiles(texts)
        await self._keeps_to_what_holds(texts)
        again = self.client.turns.generate_code(self.session_id, request_id=request_id)
        self.proofs.expect(
            "the same request again writes nothing anew",
            held=await again.result() == outcome and outcome.state == TURN_STATE_COMPLETED,
            detail=f"{len(outcome.artifacts)} files, the same turn",
        )

    def _show(self, file: TurnFile) -> None:
        if file.HasField("artifact"):
            self.screen.line(f"  stored, {file.artifact.size_bytes} bytes", style="green")
        else:
            self.screen.line(f"writing {file.path}, {file.index} of {file.total}")

    async def _saved(self, turn_id: str) -> dict[str, str]:
        """Save the files, show how the first one begins, and return their texts by path."""
        texts = {}
        async for saved in self.client.artifacts.save(turn_id, self.folder):
            texts[saved.artifact.path] = saved.path.read_text(encoding="utf-8")
            if saved.number == 1:
                self._show_beginning(saved.artifact.path, texts[saved.artifact.path])
        return texts

    def _show_beginning(self, path: str, text: str) -> None:
        self.screen.line(f"{path} begins:")
        for line in text.splitlines()[:SHOWN_LINES]:
            self.screen.line(f"  | {line}", style="dim")

    def _compiles(self, texts: Mapping[str, str]) -> None:
        modules = [path for path in texts if path.endswith(".py")]
        broken = [path for path in modules if not _is_python(texts[path])]
        self.proofs.expect(
            "the code that was written compiles",
            held=bool(modules) and not broken,
            detail=f"{', '.join(modules)}; broken: {', '.join(broken) or 'none'}",
        )

    async def _keeps_to_what_holds(self, texts: Mapping[str, str]) -> None:
        """The files must say all that holds, and nothing that was given up."""
        written = "\n".join(texts.values())
        listed = self.client.specifications.list(self.session_id, include_withdrawn=True)
        known = [one async for one in listed]
        holding = [one.value for one in known if not one.withdrawn]
        withdrawn = [one.value for one in known if one.withdrawn]
        said = [value for value in holding if value in written]
        left = [value for value in withdrawn if value in written]
        self.proofs.expect(
            "all that holds is in the files, and nothing that was withdrawn",
            held=bool(holding and withdrawn) and said == holding and not left,
            detail=f"{len(said)} of {len(holding)} that hold, {len(left)} of {len(withdrawn)} "
            "withdrawn",
        )


def _is_python(text: str) -> bool:
    try:
        compile(text, "generated", "exec")
    except (SyntaxError, ValueError):
        return False
    return True
