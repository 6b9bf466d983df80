"""The file of dead letters, on both databases."""

import asyncio
from dataclasses import replace

import pytest

from services.persistence.dead_letter_ports import DeadLetter, LetterFilter, LetterOperation
from services.persistence.errors import RequestIdTaken
from tests.contracts.archives import ArchiveHarness

ALL = LetterFilter()
DAY = 86_400.0


def letter(number: int = 1, **changes: object) -> DeadLetter:
    made = DeadLetter(
        letter_id=f"letter-{number}",
        message_id=f"message-{number}",
        routing_key="interactive",
        reason="unreadable job: no field 7",
        headers={"traceparent": "00-1-2-01"},
        body=b"\x00\xff" + str(number).encode(),
        size=3,
        redrives=0,
    )
    return replace(made, **changes)  # type: ignore[arg-type] # a test names what it changes


def operation(request_id: str = "r-1", said: bytes = b"drop") -> LetterOperation:
    return LetterOperation(
        tenant="default", user_id="admin", request_id=request_id, request_hash=said
    )


async def kept(harness: ArchiveHarness, *letters: DeadLetter) -> None:
    for each in letters:
        assert await harness.archive.keep_dead_letter(each)


async def listed(
    harness: ArchiveHarness, which: LetterFilter = ALL, *, with_redriven: bool = False
) -> list[str]:
    found = await harness.archive.dead_letters(
        which, below=None, limit=50, with_redriven=with_redriven
    )
    return [each.letter_id.removeprefix("letter-") for each in found]


async def test_a_letter_comes_back_as_it_was(harness: ArchiveHarness) -> None:
    hostile = letter(headers={"näme\n": 'v"\\'}, reason="%_'; DROP --", message_id="")
    await kept(harness, hostile)
    assert await harness.archive.whole_dead_letter("letter-1") == hostile
    assert await harness.archive.whole_dead_letter("letter-2") is None


async def test_keeping_a_letter_again_changes_nothing(harness: ArchiveHarness) -> None:
    await kept(harness, letter())
    await harness.archive.mark_redriven("letter-1")
    assert not await harness.archive.keep_dead_letter(letter(reason="another"))
    (found,) = await harness.archive.dead_letters_of(["letter-1"])
    assert found.reason == letter().reason
    assert found.redrive_time is not None


async def test_replicas_that_keep_one_letter_at_once_have_it_once(harness: ArchiveHarness) -> None:
    news = await asyncio.gather(*(harness.archive.keep_dead_letter(letter()) for _ in range(4)))
    assert sorted(news) == [False, False, False, True]
    assert await listed(harness) == ["1"]


async def test_letters_are_paged_from_the_latest_on(harness: ArchiveHarness) -> None:
    await kept(harness, *(letter(number) for number in range(5)))
    pages, below = [], None
    for _ in range(3):
        page = await harness.archive.dead_letters(ALL, below=below, limit=2, with_redriven=False)
        pages.append([each.letter_id[-1] for each in page])
        below = page[-1].number
        await kept(harness, letter(10 + below))  # a letter that comes meanwhile shifts nothing
    assert pages == [["4", "3"], ["2", "1"], ["0"]]


async def test_letters_are_found_by_key_and_by_a_part_of_their_reason(
    harness: ArchiveHarness,
) -> None:
    await kept(
        harness,
        letter(1, reason="delivery_limit"),
        letter(2, routing_key="ingest", reason="delivery limit"),
        letter(3, routing_key="ingest", reason="100 % unreadable"),
    )
    assert await listed(harness, LetterFilter(routing_key="ingest")) == ["3", "2"]
    # No pattern: what would match anything matches itself alone.
    assert await listed(harness, LetterFilter(reason="y_l")) == ["1"]
    assert await listed(harness, LetterFilter(reason="%")) == ["3"]
    assert await listed(harness, LetterFilter(routing_key="ingest", reason="limit")) == ["2"]
    assert await listed(harness, LetterFilter(reason="LIMIT")) == []


async def test_what_was_redriven_is_listed_only_if_asked_for(harness: ArchiveHarness) -> None:
    await kept(harness, letter(1), letter(2))
    await harness.archive.mark_redriven("letter-1")
    assert await listed(harness) == ["2"]
    assert await listed(harness, with_redriven=True) == ["2", "1"]


async def test_the_oldest_are_redriven_first_without_what_cannot_be(
    harness: ArchiveHarness,
) -> None:
    await kept(harness, letter(1, size=4), *(letter(number) for number in range(2, 6)))
    await harness.archive.mark_redriven("letter-2")
    found, count = await harness.archive.dead_letters_to_redrive(ALL, limit=2)
    assert ([each.letter_id for each in found], count) == (["letter-3", "letter-4"], 3)
    (cut,) = await harness.archive.dead_letters_of(["letter-1", "letter-9"])
    assert cut.cut


async def test_the_first_outcome_of_a_request_stands(harness: ArchiveHarness) -> None:
    archive = harness.archive
    assert await archive.dead_letter_outcome(operation()) is None
    outcomes = await asyncio.gather(
        *(archive.keep_dead_letter_outcome(operation(), str(n).encode()) for n in range(4))
    )
    assert len(set(outcomes)) == 1
    assert await archive.dead_letter_outcome(operation()) == outcomes[0]
    with pytest.raises(RequestIdTaken):
        await archive.dead_letter_outcome(operation(said=b"another"))
    with pytest.raises(RequestIdTaken):
        await archive.keep_dead_letter_outcome(operation(said=b"another"), b"")
    other = replace(operation(said=b"another"), user_id="bob")
    assert await archive.dead_letter_outcome(other) is None


async def test_dropping_is_done_once_for_a_request(harness: ArchiveHarness) -> None:
    await kept(harness, *(letter(number) for number in range(4)))
    await harness.archive.mark_redriven("letter-0")
    drop = harness.archive.drop_dead_letters
    assert await drop(["letter-0", "letter-1", "letter-9"], operation()) == 2
    await kept(harness, letter(1))
    assert await drop(["letter-0", "letter-1", "letter-9"], operation()) == 2
    assert await listed(harness) == ["1", "3", "2"]
    with pytest.raises(RequestIdTaken):
        await drop(ALL, operation(said=b"all"))
    await harness.archive.mark_redriven("letter-3")
    assert await drop(ALL, operation("r-2")) == 2
    assert await listed(harness, with_redriven=True) == ["3"]


async def test_old_letters_and_outcomes_go(harness: ArchiveHarness) -> None:
    await kept(harness, letter(1), letter(2))
    await harness.archive.keep_dead_letter_outcome(operation(), b"done")
    await harness.archive.keep_dead_letter_outcome(operation("r-2"), b"done")
    async with harness.database.writing() as connection:
        aged = "SET create_time = now() - make_interval(secs => $1)"
        await connection.write(
            f"UPDATE dead_letters {aged} WHERE letter_id = $2",
            [(31 * DAY, "letter-1"), (29 * DAY, "letter-2")],
        )
        await connection.write(
            f"UPDATE dead_letter_operations {aged} WHERE request_id = $2",
            [(1.1 * DAY, "r-1"), (0.9 * DAY, "r-2")],
        )
    assert await harness.archive.expire_dead_letters(older_than=30 * DAY) == 1
    assert await listed(harness) == ["2"]
    assert await harness.archive.dead_letter_outcome(operation()) is None
    assert await harness.archive.dead_letter_outcome(operation("r-2")) == b"done"
