"""Waiting for documents: woken by what this process does, and looking again for what others do."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from maieutic.v1.document_service_pb2 import Document, DocumentState, IngestProgress
from services.retrieval.model import Owner
from services.retrieval.registry import Registry

LOOK_SECONDS = 0.5
"""Between two looks at a document that another process works on."""

Key = tuple[str, str]
Frames = asyncio.Queue[IngestProgress | None]


class Watchers:
    """Who waits for which document."""

    def __init__(self) -> None:
        self._waiting: defaultdict[Key, set[Frames]] = defaultdict(set)

    def tell(self, tenant: str, document_id: str, progress: IngestProgress | None = None) -> None:
        """Show them the progress, or have them look at the document."""
        for frames in self._waiting.get((tenant, document_id), ()):
            frames.put_nowait(progress)

    @contextmanager
    def waiting(self, tenant: str, document_id: str) -> Iterator[Frames]:
        """Collect what is told about the document during the block."""
        key, frames = (tenant, document_id), Frames()
        self._waiting[key].add(frames)
        try:
            yield frames
        finally:
            self._waiting[key].remove(frames)
            if not self._waiting[key]:
                del self._waiting[key]


async def changes(
    registry: Registry, watchers: Watchers, owner: Owner, document_id: str
) -> AsyncGenerator[Document, None]:
    """Yield the document now and after each change that is seen, until it is ready or failed.

    Raises DocumentNotFound, also when it is given up meanwhile.
    """
    shown: Document | None = None
    with watchers.waiting(owner.tenant, document_id) as frames:
        while shown is None or shown.state == DocumentState.DOCUMENT_STATE_PENDING:
            found = await registry.get(owner, document_id)
            if shown is None or _is_news(found, shown):
                shown = found
                yield shown
            while shown.state == DocumentState.DOCUMENT_STATE_PENDING and (
                progress := await _told(frames)
            ):
                shown = _at(shown, progress)
                yield shown


async def _told(frames: Frames) -> IngestProgress | None:
    """Return what is told next; None if it is time to look."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await frames.get()
    except TimeoutError:
        return None


def _is_news(found: Document, shown: Document) -> bool:
    """Whether the registry knows more than was shown: it is told of progress late."""
    if (found.state, found.version, found.failure) != (shown.state, shown.version, shown.failure):
        return True
    return _place(found.progress) > _place(shown.progress)


def _place(progress: IngestProgress) -> tuple[int, int]:
    return progress.stage, progress.chunks_done


def _at(document: Document, progress: IngestProgress) -> Document:
    changed = Document()
    changed.CopyFrom(document)
    changed.progress.CopyFrom(progress)
    return changed
