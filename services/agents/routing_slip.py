"""Which steps a turn has: those of its job, and those that follow from what they have found. Pure.

A plan of files adds a step for each file, so the slip grows with the first step's answer.
"""

from collections.abc import Container, Sequence

from maieutic.v1.turn_service_pb2 import CodeManifest

CODE_FILE = "code_file"


def next_step(
    planned: Sequence[str], manifest: CodeManifest, finished: Container[str]
) -> str | None:
    """Return the first step that is not finished; None if all are."""
    files = (f"{CODE_FILE}:{number}" for number, _ in enumerate(manifest.files, start=1))
    return next((step for step in (*planned, *files) if step not in finished), None)


def file_number(step: str) -> int:
    """Return the place of the file that the step writes, from 1."""
    return int(step.partition(":")[2])
