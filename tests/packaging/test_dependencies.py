import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def listed(name: str) -> list[Requirement]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def names(requirements: list[Requirement]) -> set[str]:
    return {requirement.name.lower() for requirement in requirements}


def test_the_wheel_asks_for_what_the_lock_of_the_client_is_made_from() -> None:
    assert names([Requirement(line) for line in PROJECT["dependencies"]]) == names(
        listed("base.in")
    )


def test_the_server_extra_asks_for_what_the_server_lock_is_made_from() -> None:
    build_only = {"editables", "hatchling"}
    extra = [Requirement(line) for line in PROJECT["optional-dependencies"]["server"]]
    assert names(extra) == names(listed("server.in")) - build_only


@pytest.mark.parametrize("lock", ["server", "dev", "protos", "chart", "helm"])
def test_every_locked_package_has_a_hash_and_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text

    packages = [line for line in text.splitlines() if "==" in line and not line.startswith(" ")]
    assert packages
    assert all(line.endswith("\\") for line in packages)


@pytest.mark.parametrize("lock", ["server", "dev", "protos", "chart", "helm"])
def test_everything_asked_for_is_locked(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    locked = {line.split("==")[0] for line in text.splitlines() if "==" in line}
    assert names(listed(f"{lock}.in")) <= locked
