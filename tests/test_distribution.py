from pathlib import Path

from tests.distribution import FIRST, WHOLE, rank, unit_of


def test_tests_that_share_a_deployment_are_one_unit_and_others_are_by_module() -> None:
    tests = [f"tests/{folder}/test_{n}.py::test[a::b]" for folder in WHOLE for n in range(2)]
    assert [unit_of(test) for test in tests[::2]] == [unit_of(test) for test in tests[1::2]]
    assert {unit_of(test) for test in tests} == {f"tests/{folder}" for folder in WHOLE}
    assert unit_of("tests/session/test_turns.py::test[a::b]") == "tests/session/test_turns.py"


def test_what_takes_long_comes_before_all_others() -> None:
    assert sorted((*FIRST[::-1], "agents"), key=rank) == [*FIRST, "agents"]


def test_the_folders_that_are_named_exist() -> None:
    folders = {path.name for path in Path(__file__).parent.rglob("*") if path.is_dir()}
    assert folders >= set(FIRST)
