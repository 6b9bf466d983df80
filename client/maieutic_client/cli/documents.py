"""`maieutic docs`: what answers are drawn from."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from maieutic.v1 import document_admin_service_pb2 as admin_pb, document_service_pb2 as pb
from maieutic_client.cli.as_json import json_line, json_option
from maieutic_client.cli.commands import Group
from maieutic_client.cli.evaluating import evaluate
from maieutic_client.cli.running import Exit, explained, run
from maieutic_client.cli.screen import Screen, size, when
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.client import Maieutic
from maieutic_client.documents import ADD_BYTES, FORMATS, format_of
from maieutic_client.errors import InvalidArgument

SUFFIXES = frozenset({*FORMATS, ".txt", ".rst", ".text"})
STATES = {
    pb.DOCUMENT_STATE_PENDING: "pending",
    pb.DOCUMENT_STATE_READY: "ready",
    pb.DOCUMENT_STATE_FAILED: "failed",
}
SHOWN_CHARACTERS = 300


@click.group(cls=Group)
def docs() -> None:
    """Add, list, search and delete documents."""


docs.add_command(evaluate)


@docs.command("add")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH…"
)
@target_options
def add(*, target: Target, paths: tuple[Path, ...]) -> None:
    """Store and index files of text, Markdown, HTML, PDF or Word.

    Of a folder every .md, .txt, .rst, .html, .pdf and .docx file is taken. A text that is stored
    already is not embedded again.
    """
    run(_add(target, paths))


@docs.command("list")
@click.option("--collection", default="", help="Those of a collection, instead of yours.")
@json_option
@target_options
def list_documents(*, target: Target, collection: str, as_json: bool) -> None:
    """Show your documents, newest first."""
    run(_list(target, collection, as_json=as_json))


@docs.command("search")
@click.argument("query")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(1, 50), help="Passages.")
@click.option("--collection", "collections", multiple=True, help="Search this; may be repeated.")
@json_option
@target_options
def search(
    *, target: Target, query: str, limit: int, collections: tuple[str, ...], as_json: bool
) -> None:
    """Show the passages nearest in meaning to QUERY."""
    run(_search(target, query, limit, collections, as_json=as_json))


@docs.command("delete")
@click.argument("document_ids", nargs=-1, required=True, metavar="DOCUMENT_ID…")
@target_options
def delete(*, target: Target, document_ids: tuple[str, ...]) -> None:
    """Give up documents; a text that nobody else refers to is removed."""
    run(_delete(target, document_ids))


@docs.command("attach")
@click.argument("collection")
@click.argument("document_ids", nargs=-1, required=True, metavar="DOCUMENT_ID…")
@target_options
def attach(*, target: Target, collection: str, document_ids: tuple[str, ...]) -> None:
    """Put documents into a collection.

    All users of the tenant may search it.
    """
    run(_attach(target, collection, document_ids))


@docs.command("detach")
@click.argument("collection")
@click.argument("document_ids", nargs=-1, required=True, metavar="DOCUMENT_ID…")
@target_options
def detach(*, target: Target, collection: str, document_ids: tuple[str, ...]) -> None:
    """Take documents out of a collection.

    What nobody else refers to is removed.
    """
    run(_detach(target, collection, document_ids))


@docs.command("replace")
@click.argument("document_id")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@target_options
def replace(*, target: Target, document_id: str, path: Path) -> None:
    """Give a document the content of a file.

    Whoever refers to it sees that.
    """
    run(_replace(target, document_id, path))


@docs.command("check")
@click.option("--repair", is_flag=True, help="Put right what is wrong.")
@target_options
def check(*, target: Target, repair: bool) -> None:
    """Compare the registry with the vector index.

    Of all tenants; needs an admin's API key.
    """
    run(_check(target, repair=repair))


@docs.command("cleanup")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@target_options
def cleanup(*, target: Target, dry_run: bool) -> None:
    """Give up documents that nobody has used for long.

    Of all tenants; needs an admin's API key.
    """
    run(_cleanup(target, dry_run=dry_run))


@docs.command("stats")
@json_option
@target_options
def stats(*, target: Target, as_json: bool) -> None:
    """Count the documents of all tenants; needs an admin's API key."""
    run(_stats(target, as_json=as_json))


async def _cleanup(target: Target, *, dry_run: bool) -> None:
    async with connected(target) as client:
        done = await client.documents.clean_up(dry_run=dry_run)
    screen = Screen()
    rows = [
        (
            one.tenant,
            one.user_id or one.collection or one.document_set_id,
            one.document_id,
            when(one.last_used_time),
        )
        for one in done.expired
    ]
    if rows:
        screen.table(("TENANT", "OWNER", "DOCUMENT", "LAST USED"), rows)
    verb = "would be given up" if dry_run else f"given up, {done.removed_count} documents removed"
    screen.line(f"{done.reference_count} references {verb}")


async def _stats(target: Target, *, as_json: bool) -> None:
    async with connected(target) as client:
        totals = await client.documents.totals()
    if as_json:
        click.echo(json_line(totals))
        return
    rows = [
        ("documents", str(totals.documents)),
        ("pending", str(totals.pending)),
        ("failed", str(totals.failed)),
        ("used within a day", str(totals.active)),
        ("references", str(totals.references)),
        ("size", size(totals.bytes)),
        ("chunks", str(totals.chunks)),
        ("size saved", size(totals.bytes_saved)),
        ("embeddings saved", str(totals.embeddings_saved)),
    ]
    Screen().table(("WHAT", "HOW MUCH"), rows)


async def _attach(target: Target, collection: str, document_ids: Sequence[str]) -> None:
    async with connected(target) as client:
        await client.documents.attach(collection, document_ids)
    Screen().line(f"attached to {collection}: {len(document_ids)}")


async def _detach(target: Target, collection: str, document_ids: Sequence[str]) -> None:
    async with connected(target) as client:
        await client.documents.detach(collection, document_ids)
    Screen().line(f"detached from {collection}: {len(document_ids)}")


async def _replace(target: Target, document_id: str, path: Path) -> int:
    content = await asyncio.to_thread(path.read_bytes)
    async with connected(target) as client:
        answer = await client.documents.replace(document_id, content, format=format_of(path.name))
    new, reused, version = answer.chunks_embedded, answer.chunks_reused, answer.document.version
    Screen().line(f"version {version}: {new} new chunks, {reused} known")
    return Exit.DONE


async def _check(target: Target, *, repair: bool) -> int:
    async with connected(target) as client:
        found = await client.documents.check(repair=repair)
    screen = Screen()
    kinds = {
        admin_pb.DOCUMENT_FAULT_KIND_ORPHAN: "orphan",
        admin_pb.DOCUMENT_FAULT_KIND_MISSING: "missing",
    }
    rows = [
        (one.tenant, one.document_id or "(none)", kinds.get(one.kind, "-"), str(one.chunks))
        for one in found.faults
    ]
    if rows:
        screen.table(("TENANT", "DOCUMENT", "FAULT", "CHUNKS"), rows)
    changing = f", {found.documents_changing} changing" if found.documents_changing else ""
    screen.line(
        f"{found.documents} documents of {found.tenants} tenants{changing}, {found.chunks} chunks: "
        f"{found.fault_count} faults"
    )
    return Exit.FAILED if found.fault_count and not repair else Exit.DONE


async def _add(target: Target, paths: Sequence[Path]) -> int:
    screen, failed = Screen(), 0
    files = [file for path in paths for file in _files(path)]
    if not files:
        screen.problem(f"error: no {', '.join(sorted(SUFFIXES))} file in there")
        return Exit.WRONG_INPUT
    async with connected(target) as client:
        with screen.progress("adding", len(files)) as steps:
            for name, path in files:
                steps.at(name)
                failed += not await _added(client, screen, name, path)
                steps.done()
    return Exit.FAILED if failed else Exit.DONE


async def _added(client: Maieutic, screen: Screen, name: str, path: Path) -> bool:
    """Add one file; what is wrong with it is told, and does not stop the others."""
    try:
        content = await asyncio.to_thread(path.read_bytes)
        if len(content) > ADD_BYTES:
            return await _uploaded(client, screen, name, content)
        answer = await client.documents.add(name, content)
    except (OSError, UnicodeError, InvalidArgument) as error:
        told = explained(error) if isinstance(error, InvalidArgument) else f"error: {error}"
        screen.problem(f"{path}: {told.removeprefix('error: ')}")
        return False
    new, reused = answer.chunks_embedded, answer.chunks_reused
    document = answer.document
    if document.state != pb.DOCUMENT_STATE_READY:
        state = STATES.get(document.state, "-")
        screen.problem(f"{path}: {state}: {document.failure}  {document.document_id}")
        return document.state != pb.DOCUMENT_STATE_FAILED
    screen.line(f"added {document.name}: {new} new chunks, {reused} known  {document.document_id}")
    return True


async def _uploaded(client: Maieutic, screen: Screen, name: str, content: bytes) -> bool:
    """Send a file in parts; it is ready when all is told."""
    *_, ready = [document async for document in client.documents.upload(name, content)]
    screen.line(f"added {ready.name}: {ready.chunk_count} chunks  {ready.document_id}")
    return True


def _files(path: Path) -> Iterable[tuple[str, Path]]:
    """Return names and paths: a single file as it is, of a folder all that look like text."""
    if path.is_file():
        return [(path.name, path)]
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    return [(str(file.relative_to(path)), file) for file in found]


async def _list(target: Target, collection: str, *, as_json: bool) -> None:
    async with connected(target) as client:
        listed = client.documents.list(collection=collection)
        found = [document async for document in listed]
    headings = ("ID", "NAME", "STATE", "CHUNKS", "SIZE", "ADDED")
    none = "no documents yet: `maieutic docs add PATH…` adds some"
    Screen().records(found, headings, _row, as_json=as_json, none=none)


def _row(document: pb.Document) -> tuple[str, ...]:
    return (
        document.document_id,
        document.name,
        STATES.get(document.state, "-"),
        str(document.chunk_count),
        size(document.size),
        when(document.create_time),
    )


async def _search(
    target: Target, query: str, limit: int, collections: Sequence[str], *, as_json: bool
) -> None:
    async with connected(target) as client:
        passages = await client.documents.search(query, limit=limit, collections=collections)
    Screen().records(
        passages,
        ("SCORE", "DOCUMENT", "PASSAGE"),
        lambda one: (f"{one.score:.2f}", one.document_name, _shortened(one.text)),
        as_json=as_json,
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


async def _delete(target: Target, document_ids: Sequence[str]) -> None:
    screen = Screen()
    async with connected(target) as client:
        for document_id in document_ids:
            await client.documents.delete(document_id)
            screen.line(f"deleted {document_id}")
