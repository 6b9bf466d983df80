"""`maieutic index`: the index versions that stand side by side."""

from pathlib import Path

import click

from maieutic.v1 import index_admin_service_pb2 as pb
from maieutic_client.cli.as_json import json_option
from maieutic_client.cli.commands import Group
from maieutic_client.cli.running import run
from maieutic_client.cli.screen import Screen
from maieutic_client.cli.target import Target, connected, target_options


@click.group(cls=Group)
def index() -> None:
    """Build, switch and drop index versions.

    Needs an admin's API key.

    A version is an embedder, its dimension, the splitter and its parameters. Documents are indexed
    under every version, and one version is searched.
    """


@index.command("list")
@json_option
@target_options
def list_versions(*, target: Target, as_json: bool) -> None:
    """Show the versions, the oldest first."""
    run(_list(target, as_json=as_json))


@index.command("build")
@click.option("--embedder", default="", help="Its URL; as the retrieval service is set.")
@click.option("--chunk-characters", type=int, default=0, help="Most characters of a chunk.")
@click.option("--chunk-overlap", type=int, default=None, help="Most that neighbours share.")
@target_options
def build(
    *, target: Target, embedder: str, chunk_characters: int, chunk_overlap: int | None
) -> None:
    """Index every document under a version, beside the others.

    Interrupted, the build goes on; the same command shows how far it is.
    """
    run(_build(target, embedder, chunk_characters, chunk_overlap))


@index.command("switch")
@click.argument("version_id")
@click.option("--force", is_flag=True, help="Also to a version that lacks documents.")
@target_options
def switch(*, target: Target, version_id: str, force: bool) -> None:
    """Have searches use a version."""
    run(_switch(target, version_id, force=force))


@index.command("rollback")
@click.option("--force", is_flag=True, help="Also to a version that lacks documents.")
@target_options
def rollback(*, target: Target, force: bool) -> None:
    """Have searches use the version that they used before."""
    run(_rollback(target, force=force))


@index.command("drop")
@click.argument("version_id")
@target_options
def drop(*, target: Target, version_id: str) -> None:
    """Remove a version with its vectors; never the one that is searched."""
    run(_drop(target, version_id))


@index.command("export")
@click.argument("version_id")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@target_options
def export(*, target: Target, version_id: str, file: Path) -> None:
    """Write a version, with its vectors, to a file."""
    run(_export(target, version_id, file))


@index.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@target_options
def import_version(*, target: Target, file: Path) -> None:
    """Make a version of an exported file, beside the others.

    Documents that are here in the same content are not embedded again.
    """
    run(_import(target, file))


async def _list(target: Target, *, as_json: bool) -> None:
    async with connected(target) as client:
        found = await client.indexes.list()
    headings = ("ID", "EMBEDDER", "DIMENSION", "CHUNKS OF", "OVERLAP", "DOCUMENTS", "STATE")
    Screen().records(found, headings, _row, as_json=as_json)


def _row(version: pb.IndexVersion) -> tuple[str, ...]:
    return (
        version.version_id,
        version.embedder,
        str(version.dimension),
        str(version.chunk_characters),
        str(version.chunk_overlap),
        _documents(version),
        _state(version),
    )


def _documents(version: pb.IndexVersion) -> str:
    failed = f", {version.documents_failed} failed" if version.documents_failed else ""
    return f"{version.documents} of {version.documents_total}{failed}"


def _state(version: pb.IndexVersion) -> str:
    states = {
        "searched": version.current,
        "previous": version.previous,
        "dropping": version.dropping,
        "building": version.building,
    }
    return ", ".join(name for name, holds in states.items() if holds) or "built"


async def _build(
    target: Target, embedder_url: str, chunk_characters: int, chunk_overlap: int | None
) -> None:
    screen, last = Screen(), pb.IndexVersion()
    async with connected(target) as client:
        async for version in client.indexes.build(
            embedder_url=embedder_url,
            chunk_characters=chunk_characters,
            chunk_overlap=chunk_overlap,
        ):
            if _documents(version) != _documents(last):
                screen.line(f"{version.version_id}  {_documents(version)}")
            last = version
    screen.line(f"built {last.version_id}")


async def _switch(target: Target, version_id: str, *, force: bool) -> None:
    async with connected(target) as client:
        await client.indexes.switch(version_id, force=force)
    Screen().line(f"searched: {version_id}")


async def _rollback(target: Target, *, force: bool) -> None:
    async with connected(target) as client:
        version_id = await client.indexes.rollback(force=force)
    Screen().line(f"searched: {version_id}")


async def _drop(target: Target, version_id: str) -> None:
    async with connected(target) as client:
        await client.indexes.drop(version_id)
    Screen().line(f"dropped {version_id}")


async def _export(target: Target, version_id: str, file: Path) -> None:
    screen = Screen()
    with screen.err.status("exporting") as status:
        async with connected(target) as client:
            async for step in client.indexes.export(version_id, file):
                status.update(f"exported {step.documents} of {step.documents_total} documents")
    screen.line(f"exported {version_id}: {step.documents} documents")


async def _import(target: Target, file: Path) -> None:
    screen = Screen()
    with screen.err.status("sending") as status:
        async with connected(target) as client:
            async for step in client.indexes.import_(file):
                status.update(f"imported {step.documents} documents")
    screen.line(
        f"imported {step.version_id}: {step.documents} documents,"
        f" {step.documents_skipped} skipped, {step.chunks} chunks"
    )
    screen.aside("it is being built: `maieutic index list` shows how far that is")
