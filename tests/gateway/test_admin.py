"""The AdminService: for admins' keys alone."""

from pathlib import Path

import pytest

from maieutic_client import InvalidArgument, Maieutic, NotFound, PermissionDenied
from tests.fakes.gateway import Stack

LETTER = "l" * 24
RECORD = "7:checksum:s:" + "s" * 48 + ":rec:1795283703988"


async def test_an_admins_key_lists_looks_and_drops(stack: Stack) -> None:
    for number in range(3):
        stack.quarantine.put(f"{number}{RECORD[1:]}", b"\x01\x02\x03\x04\x05content")
    async with Maieutic.connect(stack.address, api_key=stack.admin_key) as client:
        listed = [record.record_id async for record in client.quarantine.list()]
        assert listed == list(stack.quarantine.records)
        shown = await client.quarantine.get(listed[0])
        assert (shown.first_bytes, shown.content) == (b"\x01\x02\x03\x04\x05con", b"")
        whole = await client.quarantine.get(listed[0], with_content=True)
        assert whole.content.endswith(b"content")
        await client.quarantine.drop(listed[0])
        await client.quarantine.drop(listed[0])
        with pytest.raises(NotFound):
            await client.quarantine.get(listed[0])


async def test_an_admins_key_lists_looks_at_redrives_and_drops_dead_letters(stack: Stack) -> None:
    for name in ("a", "b", "c"):
        stack.dead_letters.put(name * 24, b"\x00\xffcontent")
    async with Maieutic.connect(stack.address, api_key=stack.admin_key) as client:
        letters = client.dead_letters
        assert [one.letter_id for one in [found async for found in letters.list()]] == list(
            stack.dead_letters.letters
        )
        assert (await letters.get("a" * 24)).content == b""
        assert (await letters.get("a" * 24, with_content=True)).content == b"\x00\xffcontent"
        assert len((await letters.redrive(["a" * 24], dry_run=True)).letters) == 1
        await letters.redrive(["a" * 24])
        assert [one.letter_id[0] for one in [found async for found in letters.list()]] == ["b", "c"]
        assert await letters.drop(["b" * 24]) == 1
        assert len([found async for found in letters.list(with_redriven=True)]) == 2


async def test_an_admins_key_has_documents_checked(stack: Stack) -> None:
    async with Maieutic.connect(stack.address, api_key=stack.key) as client:
        await client.documents.add("a", "a text")
    async with Maieutic.connect(stack.address, api_key=stack.admin_key) as client:
        assert (await client.documents.check()).documents == 1


async def test_an_admins_key_keeps_index_versions(stack: Stack, tmp_path: Path) -> None:
    async with Maieutic.connect(stack.address, api_key=stack.admin_key) as client:
        frames = [(one.documents, one.building) async for one in client.indexes.build()]
        assert frames == [(0, True), (1, True), (2, False)]
        first, second = [one.version_id for one in await client.indexes.list()]
        await client.indexes.switch(second)
        assert [one.current for one in await client.indexes.list()] == [False, True]
        assert await client.indexes.rollback() == first
        await client.indexes.drop(second)
        assert [one.version_id for one in await client.indexes.list()] == [first]
        file = tmp_path / "version"
        assert [one.documents async for one in client.indexes.export(first, file)] == [1, 2]
        imported = [one.version_id async for one in client.indexes.import_(file)]
        assert imported == ["", first]
        with pytest.raises(NotFound):
            await anext(client.indexes.export(second, tmp_path / "other"))
        assert list(tmp_path.glob("[ov]*")) == [file]
        file.write_bytes(b"something else")
        with pytest.raises(InvalidArgument, match="content"):
            await anext(client.indexes.import_(file))
        for call in (client.indexes.switch("../x"), client.indexes.drop("")):
            with pytest.raises(InvalidArgument, match="version_id"):
                await call


@pytest.mark.parametrize("holder", ["key", "backend_key", "stranger_key"])
async def test_nobody_elses_key_does(stack: Stack, holder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a file")
    stack.quarantine.put(RECORD, b"content")
    stack.dead_letters.put(LETTER, b"content")
    async with Maieutic.connect(stack.address, api_key=getattr(stack, holder)) as client:
        for call in (
            anext(client.quarantine.list()),
            client.quarantine.get(RECORD, with_content=True),
            client.quarantine.drop(RECORD),
            client.documents.check(),
            client.indexes.list(),
            anext(client.indexes.build()),
            client.indexes.switch("0" * 16, force=True),
            client.indexes.rollback(),
            client.indexes.drop("1" * 16),
            anext(client.indexes.export("1" * 16, tmp_path / "exported")),
            anext(client.indexes.import_(tmp_path / "file")),
            anext(client.dead_letters.list()),
            client.dead_letters.get(LETTER, with_content=True),
            client.dead_letters.redrive([LETTER]),
            client.dead_letters.drop([LETTER]),
            client.usage.get_tenant(),
            client.usage.get_tenant("acme", user="ann"),
        ):
            with pytest.raises(PermissionDenied, match="not an admin's") as raised:
                await call
            assert raised.value.reason == "NOT_AN_ADMIN"
    assert RECORD in stack.quarantine.records
    assert not stack.dead_letters.letters[LETTER].letter.HasField("redrive_time")


async def test_a_file_that_is_refused_while_it_is_sent_is_refused_by_name(
    stack: Stack, tmp_path: Path
) -> None:
    """A part of it may be on its way when the refusal comes: now and then, so many are sent."""
    (tmp_path / "file").write_bytes(b"a file")
    async with Maieutic.connect(stack.address, api_key=stack.key) as client:
        for _ in range(150):
            with pytest.raises(PermissionDenied):
                await anext(client.indexes.import_(tmp_path / "file"))


@pytest.mark.parametrize("record_id", ["", "7", "x:y", "7:é", "7:" + "a" * 401])
async def test_an_id_of_no_form_is_refused_by_name(stack: Stack, record_id: str) -> None:
    async with Maieutic.connect(stack.address, api_key=stack.admin_key) as client:
        for call in (client.quarantine.get(record_id), client.quarantine.drop(record_id)):
            with pytest.raises(InvalidArgument) as raised:
                await call
            (violation,) = raised.value.violations
            assert violation.field == "record_id"
            assert "take it from ListQuarantined" in violation.description
