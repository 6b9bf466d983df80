import base64
import json
import re
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from services.agents.settings import AgentsSettings
from services.gateway.adapters.key_file import KeyFile
from services.gateway.main import ADMIN
from services.gateway.settings import GatewaySettings
from services.persistence.settings import PersistenceSettings
from services.retrieval.settings import RetrievalSettings
from services.runtime.identity import Signer, Verifier
from services.runtime.server import is_loopback
from services.runtime.settings import FILE_SUFFIX, describe, load
from services.runtime.telemetry import EXPORT_SECONDS
from services.runtime.topology import maieutic_topology
from services.session.settings import SessionSettings
from tests.packaging.deployed import (
    CHART,
    ROOT,
    SERVICES,
    Deployed,
    Document,
    HelmRefused,
    Render,
    SecretData,
    by_name,
    chosen,
    compose,
    container,
    deployed_by_chart,
    deployed_by_compose,
    hosts_of_chart,
    of_kind,
    pods,
)
from tools.deployment_secrets import make_secrets

SETTINGS: Mapping[str, type[Any]] = {
    "agents": AgentsSettings,
    "gateway": GatewaySettings,
    "persistence": PersistenceSettings,
    "retrieval": RetrievalSettings,
    "session": SessionSettings,
}
VALUE_SETS = ("default", "production", "everything")
NEEDED = re.compile(r"_(ADDRESS|URL|LISTEN|ID_KEY|SIGNING_KEY|PUBLIC_KEYS)$|_API_KEYS_FILE$")
"""What a service has a default for, but on a cluster not the right one."""
NOT_NEEDED = re.compile(r"_BASE_URL$|_METRICS_LISTEN$")


@pytest.fixture(scope="module")
def existing(secrets_folder: Path) -> SecretData:
    """The Secrets that the sets of values name."""

    def files(folder: Path) -> dict[str, str]:
        return {file.name: file.read_text() for file in folder.iterdir()}

    stores = files(secrets_folder / "stores")
    certificate = {"tls.crt": "a certificate", "tls.key": "its key", "ca.crt": "an authority"}
    return {
        "maieutic-identity": files(secrets_folder / "identity"),
        "maieutic-api-keys": files(secrets_folder / "api-keys"),
        "maieutic-redis": {"url": stores["redis-url"], "ca.crt": "CERTIFICATE"},
        "maieutic-rabbitmq": {"amqp-url": stores["rabbitmq-url"]},
        "maieutic-postgres": {"url": stores["postgres-url"]},
        "maieutic-internal-tls": certificate,
        "maieutic-public-tls": certificate,
        "public-tls": certificate,
        "maieutic-pinecone": {"api-key": "pc-key"},
        "maieutic-claude": {"token": "sk-key"},
    }


@pytest.fixture(scope="module", params=VALUE_SETS)
def manifests(request: pytest.FixtureRequest, rendering: Render) -> list[Document]:
    return rendering("--values", values_of(request.param))


@pytest.fixture(scope="module", params=[*VALUE_SETS, "compose"])
def deployment(
    request: pytest.FixtureRequest,
    secrets_folder: Path,
    existing: SecretData,
) -> list[Deployed]:
    """All that a deployment starts of ours."""
    if request.param == "compose":
        return deployed_by_compose(secrets_folder)
    rendered = request.getfixturevalue("rendering")("--values", values_of(request.param))
    return deployed_by_chart(rendered, existing)


@pytest.fixture
def loaded(deployment: list[Deployed], tmp_path: Path) -> list[tuple[Deployed, Any]]:
    """What each process makes of its environment."""
    return [
        (
            part,
            load(SETTINGS[part.service], environ=part.put_into(tmp_path / part.name)),
        )
        for part in deployment
    ]


def values_of(name: str) -> Path:
    return CHART / "ci" / f"{name}-values.yaml"


def test_all_five_services_are_deployed(deployment: list[Deployed]) -> None:
    assert {part.service for part in deployment} == SERVICES
    assert all(part.arguments == [f"services.{part.service}.main"] for part in deployment)
    assert 'ENTRYPOINT ["python", "-m"]' in (ROOT / "deploy" / "Dockerfile").read_text()


def test_every_variable_is_a_setting_of_its_service(deployment: list[Deployed]) -> None:
    for part in deployment:
        known = {variable.name for variable in describe(SETTINGS[part.service])}
        ours = {name for name in part.environment if name.startswith("MAIEUTIC_")}
        assert ours
        assert {name for name in ours if set_by(name) & known == set()} == set(), part.name


def set_by(name: str) -> set[str]:
    return {name, name.removesuffix(FILE_SUFFIX)}


def test_what_a_service_cannot_do_without_is_set(deployment: list[Deployed]) -> None:
    for part in deployment:
        needed = {
            variable.name
            for variable in describe(SETTINGS[part.service])
            if variable.default is None
            or (NEEDED.search(variable.name) and not NOT_NEEDED.search(variable.name))
        }
        set_here = {name for given in part.environment for name in set_by(given)}
        assert needed - set_here == set(), part.name


def test_every_service_accepts_its_environment_and_serves_other_machines(
    loaded: list[tuple[Deployed, Any]],
) -> None:
    for part, settings in loaded:
        assert not is_loopback(settings.server.listen), part.name
        secured = bool(settings.server.tls.certificate_file)
        assert secured != settings.server.allow_plaintext, part.name


def test_secrets_come_as_files_and_each_has_its_reader(deployment: list[Deployed]) -> None:
    for part in deployment:
        values = set(part.environment.values())
        assert not [value for value in values if "PRIVATE KEY" in value or "@" in value]
        unread = {path for path in part.files if path not in values}
        # A certificate's Secret is mounted whole; who asks for no client certificate reads less.
        assert {path for path in unread if not path.endswith("/ca.crt")} == set(), part.name


def test_every_caller_is_known_to_those_it_calls(loaded: list[tuple[Deployed, Any]]) -> None:
    verifiers = [
        Verifier(settings.public_keys)
        for part, settings in loaded
        if part.service in {"session", "retrieval", "persistence"}
    ]
    assert verifiers
    for part, settings in loaded:
        token = Signer(part.service, settings.signing_key).token("acme", "ann")
        assert {verifier.verify(token).service for verifier in verifiers} == {part.service}


async def test_the_first_api_key_is_an_admins(rendering: Render, tmp_path: Path) -> None:
    documents = rendering()
    made = by_name(documents, "Secret")["rel-maieutic-api-keys"]["data"]
    parts = {part.service: part for part in deployed_by_chart(documents, {})}
    keys_file = parts["gateway"].put_into(tmp_path)["MAIEUTIC_API_KEYS_FILE"]

    keys = await KeyFile.open(Path(keys_file))
    assert await keys.holder("mk_guess") is None
    assert await keys.holder(base64.b64decode(made["admin-key"]).decode()) == ADMIN


async def test_composed_keys_hold_the_admins(secrets_folder: Path) -> None:
    keys = await KeyFile.open(secrets_folder / "api-keys" / "api-keys.jsonl")
    assert await keys.holder((secrets_folder / "admin-key").read_text().strip()) == ADMIN


def test_a_process_is_not_killed_before_it_has_drained(
    loaded: list[tuple[Deployed, Any]],
) -> None:
    for part, settings in loaded:
        own = {"agents": "grace", "persistence": "batch.drain"}.get(part.service)
        work = attrgetter(own)(settings) if own else 0
        needed = settings.server.drain_delay + settings.server.grace + work + EXPORT_SECONDS
        assert needed < part.grace, part.name


def test_a_pod_may_wait_for_its_database_and_migrate_it(
    manifests: list[Document], existing: SecretData
) -> None:
    specs = pods(manifests)
    for part in deployed_by_chart(manifests, existing):
        if part.service == "persistence":
            waits = 2 * int(part.environment["MAIEUTIC_MIGRATE_TIMEOUT"])
            probe = container(specs[part.name])["startupProbe"]
            assert probe["failureThreshold"] * probe["periodSeconds"] > waits


def test_probes_and_scrapers_ask_the_ports_on_which_the_service_listens(
    manifests: list[Document], existing: SecretData
) -> None:
    specs = pods(manifests)
    for part in deployed_by_chart(manifests, existing):
        inside = container(specs[part.name])
        ports = {entry["name"]: entry["containerPort"] for entry in inside["ports"]}
        assert ports["grpc"] == part.port, part.name
        probe = {"tcpSocket": {"port": "grpc"}} if part.secured else {"grpc": {"port": part.port}}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert probe.items() <= inside[kind].items(), (part.name, kind)
        scraped = part.environment.get("MAIEUTIC_TELEMETRY_METRICS_LISTEN", "")
        assert scraped.rpartition(":")[2] == str(ports.get("metrics", "")), part.name


def test_every_address_is_that_of_one_deployment_s_pods(
    manifests: list[Document], existing: SecretData
) -> None:
    parts = {part.name: part for part in deployed_by_chart(manifests, existing)}
    services, hosts = by_name(manifests, "Service"), hosts_of_chart(manifests)
    addresses = {
        value
        for part in parts.values()
        for name, value in part.environment.items()
        if name.endswith("_ADDRESS")
    }
    assert len(addresses) == 3
    for address in addresses:
        (behind,) = hosts[address]
        assert address.endswith(f":{parts[behind].port}")
        host = address.removeprefix("dns:///").partition(".")[0]
        # The name server then gives each pod's address, and the client takes turns.
        assert services[host]["spec"]["clusterIP"] == "None"


def test_selectors_choose_one_deployment_each(manifests: list[Document]) -> None:
    for document in manifests:
        spec = document.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if not selector:
            continue
        labels = selector.get("matchLabels", selector)
        assert len(chosen(manifests, labels)) == 1, document["metadata"]["name"]


def test_pods_keep_the_restricted_standard(manifests: list[Document]) -> None:
    accounts = by_name(manifests, "ServiceAccount")
    for name, pod in pods(manifests).items():
        context, inside = pod["securityContext"], container(pod)
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert inside["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert pod["automountServiceAccountToken"] is False, name
        assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False
        assert inside["resources"]["requests"].keys() == {"cpu", "memory"}, name
        assert "memory" in inside["resources"]["limits"], name


def test_every_lane_has_workers(deployment: list[Deployed], tmp_path: Path) -> None:
    consumed = {
        queue
        for part in deployment
        if part.service == "agents"
        for queue in load(AgentsSettings, environ=part.put_into(tmp_path / part.name))
        .worker()
        .queues
    }
    lanes = {queue.name for queue in maieutic_topology().queues if queue.name.startswith("turns.")}
    if any(part.name == "conversations-agents-background" for part in deployment):
        assert consumed == lanes
    assert consumed >= lanes


def test_what_scales_by_itself_has_no_fixed_number(rendering: Render) -> None:
    documents = rendering("--values", values_of("everything"))
    scaled = {
        document["spec"]["scaleTargetRef"]["name"]
        for kind in ("HorizontalPodAutoscaler", "ScaledObject")
        for document in of_kind(documents, kind)
    }
    fixed = {
        name
        for name, deployment in by_name(documents, "Deployment").items()
        if "replicas" in deployment["spec"]
    }
    assert scaled
    assert fixed == {"conversations-retrieval"}
    assert scaled | fixed == by_name(documents, "Deployment").keys()


def test_workers_scale_on_the_queues_they_consume(rendering: Render, tmp_path: Path) -> None:
    documents = rendering("--values", values_of("everything"))
    queues = {queue.name for queue in maieutic_topology().queues}
    for scaled in of_kind(documents, "ScaledObject"):
        data = by_name(documents, "ConfigMap")[scaled["spec"]["scaleTargetRef"]["name"]]["data"]
        for trigger in scaled["spec"]["triggers"]:
            queue = trigger["metadata"]["queueName"]
            lane = queue.split(".")[1].upper()
            assert queue in queues
            turns = int(data[f"MAIEUTIC_{lane}_TURNS"])
            assert 0 < int(trigger["metadata"]["value"]) <= turns


def test_what_is_nearer_to_the_pod_goes_before_and_reaches_no_neighbour(
    rendering: Render, tmp_path: Path
) -> None:
    values = tmp_path / "values.json"
    lanes = {"long": {"nodeSelector": {"pool": "slow"}, "disruptionBudget": {"enabled": False}}}
    services = {"agents": {"nodeSelector": {"pool": "workers"}, "lanes": lanes}}
    values.write_text(json.dumps({"pods": {"nodeSelector": {"pool": "any"}}, **services}))

    documents = rendering("--values", values)

    pools = {name: pod["nodeSelector"]["pool"] for name, pod in pods(documents).items()}
    agents = {name for name in pools if "-agents-" in name}
    assert {pools[name] for name in pools.keys() - agents} == {"any"}
    assert {name: pools[name] for name in agents} == {
        "rel-maieutic-agents-interactive": "workers",
        "rel-maieutic-agents-analysis": "workers",
        "rel-maieutic-agents-long": "slow",
    }
    kept = by_name(documents, "PodDisruptionBudget").keys()
    assert kept == pools.keys() - {"rel-maieutic-agents-long"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("session.sesion=1", "sesion"),
        ("pods.envs.MAIEUTIC_GRACE=1", "envs"),
        ("agents.lanes.long.turn=1", "turn"),
        ("session.replicas=many", "replicas"),
        ("session.env.MAIEUTIC_LEAS=3", "no setting MAIEUTIC_LEAS"),
        ("agents.env.MAIEUTIC_GRACE=3", "the chart itself sets MAIEUTIC_GRACE"),
        ("retrieval.replicas=2", "a local index is for one process"),
        ("retrieval.index.url=pinecone://a", "index.pinecone.existingSecret: name the Secret"),
        ("session.env.MAIEUTIC_SESSION_BACKEND=memory", "sessions in memory are one process's own"),
        ("stores.redis.caKey=a/b", "caKey"),
        ("agents.model=claude", "agents.claude.existingSecret: name the Secret"),
        ("agents.autoscaling.enabled=true", "keda.existingSecret"),
    ],
)
def test_helm_refuses_values_that_cannot_work(rendering: Render, value: str, reason: str) -> None:
    with pytest.raises(HelmRefused, match=re.escape(reason)):
        rendering("--set", value)


def test_whole_numbers_stay_whole(rendering: Render) -> None:
    documents = rendering("--set=session.env.MAIEUTIC_SERVER_MAX_MESSAGE_BYTES=16777216")
    data = by_name(documents, "ConfigMap")["rel-maieutic-session"]["data"]
    assert data["MAIEUTIC_SERVER_MAX_MESSAGE_BYTES"] == "16777216"


def test_compose_publishes_the_gateway_on_loopback_and_nothing_else() -> None:
    services = compose()["services"]
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert published.pop("gateway") == ["127.0.0.1:50051:50051"]
    assert set(map(tuple, published.values())) == {()}


def test_composed_stores_keep_their_data_and_are_waited_for() -> None:
    document = compose()
    stores = document["services"].keys() - SERVICES
    assert stores == {"redis", "rabbitmq", "postgres"}
    for store in stores:
        assert "healthcheck" in document["services"][store]
        (volume,) = document["services"][store]["volumes"]
        assert volume.partition(":")[0] in document["volumes"]
    for name in SERVICES - {"gateway", "retrieval"}:
        assert document["services"][name]["depends_on"].keys() <= stores


def test_secrets_that_are_there_are_not_made_again(secrets_folder: Path) -> None:
    before = (secrets_folder / "identity" / "id-key").read_text()
    with pytest.raises(FileExistsError):
        make_secrets(secrets_folder)
    assert (secrets_folder / "identity" / "id-key").read_text() == before


def test_the_authority_of_the_session_store_is_a_file_of_the_session_service(
    rendering: Render,
) -> None:
    documents = rendering(
        "--set=stores.redis.existingSecret=own", "--set=stores.redis.caKey=authority.pem"
    )
    wanted = {"key": "authority.pem", "path": "redis/ca.crt"}
    having = {
        name
        for name, pod in pods(documents).items()
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if source["secret"]["name"] == "own" and wanted in source["secret"]["items"]
    }
    assert having == {"rel-maieutic-session"}
