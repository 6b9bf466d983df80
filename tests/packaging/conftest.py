"""The chart's renderings and a deployment's secrets."""

from pathlib import Path

import pytest

from tests.packaging.deployed import Render, render
from tools.deployment_secrets import make_secrets
from tools.helm import helm


@pytest.fixture(scope="session")
def rendering() -> Render:
    """Renders the chart with the given arguments of helm."""
    program = helm()
    return lambda *arguments: render(program, *arguments)


@pytest.fixture(scope="session")
def secrets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make secrets` makes."""
    folder = tmp_path_factory.mktemp("deployment") / "secrets"
    make_secrets(folder)
    return folder
