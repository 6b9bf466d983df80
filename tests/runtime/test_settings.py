"""Settings come from the environment into frozen dataclasses, with errors that help."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest

import services
from services.runtime.server import ServerOptions
from services.runtime.settings import BadSettings, Variable, describe, load


class Lane(StrEnum):
    SHORT = "short"
    LONG = "long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    certificate_file: Path | None = None
    """PEM file of the certificate."""

    key: str = ""
    """The private key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    redis_url: str
    """Where Redis is."""

    ttl: timedelta = timedelta(minutes=30)
    """Life of an idle session,
    in seconds."""

    backend: Literal["redis", "memory"] = "redis"
    lane: Lane = Lane.SHORT
    workers: int = 3
    keys: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    tls: Tls = Tls(key="from the default")
    json: bool = field(default=False, metadata={"help": "JSON, or not."})


URL = {"MAIEUTIC_REDIS_URL": "redis://localhost"}


def test_what_is_not_set_keeps_its_default() -> None:
    assert load(Settings, environ=URL) == Settings(redis_url="redis://localhost")


def test_values_are_converted_to_the_fields_types(tmp_path: Path) -> None:
    environ = {
        **URL,
        "MAIEUTIC_TTL": "90",
        "MAIEUTIC_BACKEND": "memory",
        "MAIEUTIC_LANE": "long",
        "MAIEUTIC_WORKERS": "7",
        "MAIEUTIC_KEYS": '{"gateway": "a"}',
        "MAIEUTIC_HOSTS": '["a", "b"]',
        "MAIEUTIC_TLS_CERTIFICATE_FILE": str(tmp_path / "no-such-file"),
        "MAIEUTIC_JSON": "true",
    }

    assert load(Settings, environ=environ) == Settings(
        redis_url="redis://localhost",
        ttl=timedelta(seconds=90),
        backend="memory",
        lane=Lane.LONG,
        workers=7,
        keys={"gateway": "a"},
        hosts=("a", "b"),
        tls=Tls(certificate_file=tmp_path / "no-such-file", key="from the default"),
        json=True,
    )


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIEUTIC_REDIS_URL", "redis://here")
    monkeypatch.setenv("REDIS_URL", "redis://not-ours")

    assert load(Settings).redis_url == "redis://here"


def test_another_prefix_may_be_given() -> None:
    assert load(Settings, prefix="OTHER_", environ={"OTHER_REDIS_URL": "x"}).redis_url == "x"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://:hunter2@host\n", encoding="utf-8")

    settings = load(Settings, environ={"MAIEUTIC_REDIS_URL_FILE": str(secret)})

    assert settings.redis_url == "redis://:hunter2@host"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"MAIEUTIC_REDIS_URL_FILE: cannot read .*no-such-file"):
        load(Settings, environ={"MAIEUTIC_REDIS_URL_FILE": str(tmp_path / "no-such-file")})


def test_a_value_and_its_file_together_are_refused(tmp_path: Path) -> None:
    environ = {**URL, "MAIEUTIC_REDIS_URL_FILE": str(tmp_path)}

    with pytest.raises(BadSettings, match="are both set: set one of them"):
        load(Settings, environ=environ)


def test_every_wrong_variable_is_named_with_its_problem_and_without_its_value() -> None:
    environ = {"MAIEUTIC_WORKERS": "hunter2", "MAIEUTIC_BACKEND": "hunter2"}

    with pytest.raises(BadSettings) as raised:
        load(Settings, environ=environ)

    lines = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "MAIEUTIC_REDIS_URL",
        "MAIEUTIC_BACKEND",
        "MAIEUTIC_WORKERS",
    ]
    assert "is not set and has no default" in lines[0]
    assert "'redis' or 'memory'" in lines[1]
    assert "hunter2" not in str(raised.value)


def test_broken_json_is_named() -> None:
    with pytest.raises(BadSettings, match="MAIEUTIC_KEYS: not valid JSON"):
        load(Settings, environ={**URL, "MAIEUTIC_KEYS": "{hunter2"})


def test_each_variable_is_described() -> None:
    rows = {row.name: row for row in describe(Settings)}

    assert rows["MAIEUTIC_REDIS_URL"] == Variable(
        name="MAIEUTIC_REDIS_URL", type="str", default=None, help="Where Redis is."
    )
    assert rows["MAIEUTIC_TTL"].default == "1800"
    assert rows["MAIEUTIC_HOSTS"].default == "[]"
    assert rows["MAIEUTIC_JSON"].default == "false"
    assert rows["MAIEUTIC_TLS_CERTIFICATE_FILE"].default == ""
    assert rows["MAIEUTIC_TTL"].help == "Life of an idle session, in seconds."
    assert rows["MAIEUTIC_BACKEND"].type == "redis | memory"
    assert rows["MAIEUTIC_LANE"].type == "short | long"
    assert rows["MAIEUTIC_LANE"].default == "short"
    assert rows["MAIEUTIC_TLS_CERTIFICATE_FILE"].help == "PEM file of the certificate."
    assert rows["MAIEUTIC_TLS_KEY"].default == "from the default"
    assert rows["MAIEUTIC_JSON"].help == "JSON, or not."


def test_the_server_s_options_are_described_too() -> None:
    rows = describe(ServerOptions)

    assert all(row.help for row in rows)
    assert "MAIEUTIC_TLS_KEY_FILE" in {row.name for row in rows}


SERVICES = sorted(
    file.parent.name
    for file in Path(services.__file__ or "").parent.glob("*/settings.py")
    if file.parent.name != "runtime"
)


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_of_a_service_is_explained(service: str) -> None:
    module = importlib.import_module(f"services.{service}.settings")
    rows = describe(getattr(module, f"{service.capitalize()}Settings"))

    assert [row.name for row in rows if not row.help] == []
    assert len({row.name for row in rows}) == len(rows)
