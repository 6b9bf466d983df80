"""What the chart and compose.yaml make of the services, read as the machine would."""

import base64
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "maieutic"
COMPOSE = ROOT / "deploy" / "compose.yaml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
SERVICES = frozenset({"gateway", "session", "retrieval", "agents", "persistence"})

Document = dict[str, Any]
SecretData = Mapping[str, Mapping[str, str]]
Render = Callable[..., list[Document]]


class HelmRefused(Exception):
    """Helm did not render the chart; the text is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A service as a deployment starts it."""

    name: str
    """Of the Deployment, without the release."""
    arguments: Sequence[str]
    environment: Mapping[str, str]
    files: Mapping[str, str]
    """Secrets by their paths in the container."""
    grace: float
    """Seconds from SIGTERM to SIGKILL."""

    @property
    def service(self) -> str:
        """The package that runs."""
        return self.arguments[0].split(".")[1]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.environment["MAIEUTIC_SERVER_LISTEN"].rpartition(":")[2])

    @property
    def secured(self) -> bool:
        """Whether its listener speaks TLS."""
        return "MAIEUTIC_SERVER_TLS_CERTIFICATE_FILE" in self.environment

    def put_into(self, folder: Path) -> dict[str, str]:
        """Write the files below *folder*; returns the environment with their paths there."""
        for path, text in self.files.items():
            file = folder / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return {
            name: str(folder / value.lstrip("/")) if value in self.files else value
            for name, value in self.environment.items()
        }


def render(helm: Path, *arguments: str | Path) -> list[Document]:
    """Return the chart's manifests; raises HelmRefused."""
    command = [helm, "template", "rel", CHART, "--namespace", "talk", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise HelmRefused(done.stderr)
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def of_kind(documents: Sequence[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def by_name(documents: Sequence[Document], kind: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in of_kind(documents, kind)}


def pods(documents: Sequence[Document]) -> dict[str, Document]:
    """Return the pod specs by their Deployment's name."""
    return {
        name: deployment["spec"]["template"]["spec"]
        for name, deployment in by_name(documents, "Deployment").items()
    }


def container(pod: Document) -> Document:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


def deployed_by_chart(documents: Sequence[Document], existing: SecretData) -> list[Deployed]:
    """Return what runs; *existing* has the Secrets that the chart does not make."""
    settings = by_name(documents, "ConfigMap")
    secrets = {**existing, **_made(documents)}
    found = []
    for name, pod in pods(documents).items():
        inside = container(pod)
        environment: dict[str, str] = {}
        for source in inside["envFrom"]:
            environment |= settings[source["configMapRef"]["name"]]["data"]
        environment |= {entry["name"]: entry["value"] for entry in inside.get("env", [])}
        found.append(
            Deployed(
                name=name,
                arguments=inside["args"],
                environment=environment,
                files=dict(_mounted(pod, secrets)),
                grace=pod["terminationGracePeriodSeconds"],
            )
        )
    return found


def hosts_of_chart(documents: Sequence[Document]) -> dict[str, list[str]]:
    """Return which Deployments answer at each address that a name server would know."""
    return {
        f"dns:///{name}.talk.svc.cluster.local:{port['port']}": chosen(
            documents, service["spec"]["selector"]
        )
        for name, service in by_name(documents, "Service").items()
        for port in service["spec"]["ports"]
    }


def chosen(documents: Sequence[Document], selector: Mapping[str, str]) -> list[str]:
    """Return the Deployments whose pods a selector chooses."""
    return [
        deployment["metadata"]["name"]
        for deployment in of_kind(documents, "Deployment")
        if selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    ]


def _made(documents: Sequence[Document]) -> SecretData:
    return {
        name: {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        for name, secret in by_name(documents, "Secret").items()
    }


def _mounted(pod: Document, secrets: SecretData) -> Iterator[tuple[str, str]]:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container(pod)["volumeMounts"]:
        volume, folder = volumes[mount["name"]], mount["mountPath"]
        if "secret" in volume:
            for key, text in secrets[volume["secret"]["secretName"]].items():
                yield f"{folder}/{key}", text
        for source in volume.get("projected", {}).get("sources", []):
            known = secrets[source["secret"]["name"]]
            for item in source["secret"]["items"]:
                yield f"{folder}/{item['path']}", known[item["key"]]


def compose() -> Document:
    document = yaml.safe_load(COMPOSE.read_text())
    assert isinstance(document, dict)
    return document


def deployed_by_compose(secrets_folder: Path) -> list[Deployed]:
    """Return our services of compose.yaml with the secrets of a folder, else of deploy/secrets."""
    document = compose()
    sources = {
        name: secrets_folder / Path(secret["file"]).relative_to("secrets")
        for name, secret in document["secrets"].items()
    }
    return [
        Deployed(
            name=name,
            arguments=service["command"],
            environment={key: _filled(text) for key, text in service["environment"].items()},
            files={f"/run/secrets/{key}": sources[key].read_text() for key in service["secrets"]},
            grace=float(service["stop_grace_period"].removesuffix("s")),
        )
        for name, service in document["services"].items()
        if name in SERVICES
    ]


def hosts_of_compose(parts: Sequence[Deployed]) -> dict[str, list[str]]:
    """Return who answers at each address: a service's name is its host's."""
    return {f"dns:///{part.name}:{part.port}": [part.name] for part in parts}


def _filled(text: str) -> str:
    """Give ${NAME:-default} its default."""
    return text[2:-1].partition(":-")[2] if text.startswith("${") else text
