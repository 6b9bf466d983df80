"""The workers' composition root."""

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.turn_work_service_pb2_grpc import TurnWorkServiceStub
from maieutic.v1.document_service_pb2_grpc import DocumentServiceStub
from maieutic.v1.session_service_pb2 import (
    SESSION_MODE_DIRECT,
    SESSION_MODE_SOCRATIC,
    SESSION_MODE_UNSPECIFIED,
)
from maieutic.v1.turn_service_pb2 import TURN_KIND_CODE
from services.agents.accounts import Accounts
from services.agents.adapters import offline, scripted
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.adapters.offline import OfflineModel
from services.agents.adapters.scripted import ScriptedModel, read_script
from services.agents.adapters.tool_servers import tool_servers
from services.agents.agents import claims, code_plan, conflict, context, summary, verdicts
from services.agents.agents.code_file import CodeFileAgent
from services.agents.agents.code_summary import summary_of
from services.agents.agents.direct import DirectAgent, DirectPrompts
from services.agents.agents.loop import LoopOptions
from services.agents.agents.shelf import Shelf
from services.agents.agents.socratic import SocraticAgent
from services.agents.agents.team_tools import TeamTools
from services.agents.agents.tools import DirectTools
from services.agents.budget import CallBounds
from services.agents.consumer import Worker
from services.agents.crew import Crew
from services.agents.entry_points import Extensions, load_extensions
from services.agents.extension import AgentParts
from services.agents.fitted_model import FittedModel
from services.agents.gated_model import GatedModel
from services.agents.metered_model import MeteredModel
from services.agents.ports import Agent, Model
from services.agents.prices import PriceTable, price_table
from services.agents.recorder import Recorder
from services.agents.routing_slip import CODE_FILE
from services.agents.settings import AgentsSettings, ModelSettings, PriceOptions
from services.agents.traced_model import TracedModel
from services.agents.tuned_model import TunedModel
from services.agents.turn_run import TurnParts, TurnRun
from services.agents.turn_work import TurnWork
from services.runtime.bus import Bus
from services.runtime.channel import open_channel
from services.runtime.identity import Signer
from services.runtime.lifecycle import run
from services.runtime.rabbitmq import RabbitMQBus
from services.runtime.server import RunningServer, serving
from services.runtime.settings import BadSettings, load
from services.runtime.telemetry import telemetry
from services.runtime.topology import maieutic_topology

SERVICE = "agents"
SPARE_CONNECTIONS = 32
"""Beyond one for each turn: those of stopped calls that are still being closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAgents:
    """Workers that take jobs."""

    server: RunningServer
    worker: Worker

    async def wait(self) -> None:
        """Wait until cancelled; raises what ended a consumer."""
        await self.worker.wait()


@asynccontextmanager
async def agents_service(
    settings: AgentsSettings, *, bus: Bus, model: Model, signer: Signer
) -> AsyncIterator[RunningAgents]:
    """Work during the block; leaving it drains. `embedded` calls this, too.

    Raises BadSettings for prices and limits that make no sense, and for extensions that cannot be
    used.
    """
    bounds = _bounds(settings.model)
    _check_limits(settings.model, bounds)
    extensions = load_extensions(settings.extensions)
    peer = partial(open_channel, signer=signer, options=settings.channel)
    async with (
        peer(settings.session_address, service="session") as session,
        peer(settings.retrieval_address, service="retrieval") as retrieval,
        serving(settings.server, lambda _: ()) as server,
        Recorder.open(TurnWorkServiceStub(session), settings.recorder) as recorder,
        tool_servers(settings.extensions.servers, signer) as remote,
    ):
        accounts = Accounts()
        asked = _asked(model, settings.model, bounds, accounts)
        documents, team = DocumentServiceStub(retrieval), TeamTools(extensions.tools)
        tools = DirectTools(documents, lambda turn: [*team.of(turn), *remote(turn)])
        crew = _crew(asked, tools, Shelf(documents), settings.model.loop, extensions)
        parts = TurnParts(
            work=TurnWork(TurnWorkServiceStub(session), worker_id=_worker_id(settings)),
            recorder=recorder,
            bus=bus,
            crew=crew,
            accounts=accounts,
        )

        def start(job: RunTurn, claim_id: str, *, from_lane: bool) -> TurnRun:
            return TurnRun(job=job, claim_id=claim_id, from_lane=from_lane, parts=parts)

        worker = Worker(bus=bus, start=start, options=settings.worker())
        async with worker.working():
            yield RunningAgents(server=server, worker=worker)


def _asked(model: Model, settings: ModelSettings, bounds: CallBounds, accounts: Accounts) -> Model:
    """Return the model as agents ask it: tuned for each, fitted, metered, gated and traced."""
    gated = GatedModel(TracedModel(model, provider=settings.provider))
    metered = MeteredModel(gated, bounds=bounds, accounts=accounts)
    fitted = FittedModel(
        metered, options=settings.context, name=bounds.model, max_tokens=bounds.max_tokens
    )
    return TunedModel(fitted, settings.agents)


def _crew(
    model: Model, tools: DirectTools, shelf: Shelf, options: LoopOptions, extensions: Extensions
) -> Crew:
    prompt = extensions.prompt
    direct = DirectPrompts(
        grounded=prompt("direct", 4), ungrounded=prompt("direct_without_documents", 4)
    )
    ours: dict[str, Agent] = {
        "direct": DirectAgent(model, tools, direct, options),
        "socratic": SocraticAgent(model, prompt("socratic", 2)),
        context.STEP: context.ContextAgent(model, prompt("context", 1)),
        conflict.STEP: conflict.ConflictAgent(model, prompt("conflict", 1)),
        summary.STEP: summary.SummaryAgent(model, prompt("summary", 1)),
        claims.STEP: claims.ClaimsAgent(model, prompt(claims.STEP, 1)),
        verdicts.STEP: verdicts.VerdictsAgent(model, shelf, prompt(verdicts.STEP, 1)),
        code_plan.STEP: code_plan.CodePlanAgent(model, prompt(code_plan.STEP, 1)),
        CODE_FILE: CodeFileAgent(model, prompt(CODE_FILE, 1)),
    }
    theirs = extensions.agents(AgentParts(model=model, tools=tools.of, loop=options))
    agents = {**ours, **theirs}
    steps = (
        *(context.STEP, conflict.STEP, summary.STEP),
        *(claims.STEP, verdicts.STEP),
        *(code_plan.STEP, CODE_FILE),
    )
    return Crew(
        answering={
            SESSION_MODE_UNSPECIFIED: agents["direct"],
            SESSION_MODE_DIRECT: agents["direct"],
            SESSION_MODE_SOCRATIC: agents["socratic"],
        },
        questioning=agents["socratic"],
        steps={step: agents[step] for step in steps},
        named={name: agent for name, agent in agents.items() if name not in steps},
        concluding={TURN_KIND_CODE: summary_of},
    )


def _bounds(model: ModelSettings) -> CallBounds:
    prices = _prices(model.prices)
    if model.kind == "claude":
        claude = model.claude
        return CallBounds(prices=prices, model=claude.model, max_tokens=claude.max_tokens)
    here = {"offline": offline.MODEL_NAME, "scripted": scripted.MODEL_NAME}
    return CallBounds(prices=prices, model=here[model.kind])


def _check_limits(model: ModelSettings, bounds: CallBounds) -> None:
    """Raise BadSettings for limits under which no turn would ever be answered."""
    if (rounds := model.loop.rounds) < 0:
        raise BadSettings(f"MAIEUTIC_MODEL_LOOP_ROUNDS: must be at least 0, is {rounds}")
    if (room := model.context.room(bounds.model, bounds.max_tokens)) <= 0:
        raise BadSettings(
            f"MAIEUTIC_MODEL_CONTEXT_TOKENS: leaves {room} tokens to read, besides an answer of "
            f"{bounds.max_tokens} and the margin: raise it, or lower one of them"
        )


def _prices(options: PriceOptions) -> PriceTable:
    try:
        return price_table(options.date, options.currency, options.models)
    except ValueError as error:
        raise BadSettings(f"MAIEUTIC_MODEL_PRICES: {error}") from error


def _worker_id(settings: AgentsSettings) -> str:
    return settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"


@asynccontextmanager
async def open_model(settings: AgentsSettings) -> AsyncIterator[Model]:
    """Open the model that the settings name.

    Raises ModelRejected for a bad script, BadSettings if Claude's key is missing.
    """
    model = settings.model
    if model.kind == "claude":
        async with _claude(model.claude, calls=settings.turns) as claude:
            yield claude
    elif model.kind == "offline":
        yield OfflineModel(chunk_delay=model.word_delay)
    else:
        calls_file = Path(model.calls_file) if model.calls_file else None
        yield ScriptedModel(read_script(json.loads(model.script or "{}")), calls_file=calls_file)


def _claude(options: ClaudeOptions, *, calls: int) -> AbstractAsyncContextManager[Model]:
    if not options.api_key:
        raise BadSettings("MAIEUTIC_MODEL_CLAUDE_API_KEY: is not set, and the model is claude")
    # The SDK takes a second to import: only who uses it waits.
    from services.agents.adapters.claude import claude  # noqa: PLC0415

    return claude(options, connections=calls + SPARE_CONNECTIONS)


async def main(settings: AgentsSettings) -> None:
    """Work until cancelled."""
    signer = Signer(SERVICE, settings.signing_key)
    async with (
        telemetry(SERVICE, settings.telemetry),
        RabbitMQBus.connect(settings.bus_url, maieutic_topology()) as bus,
        open_model(settings) as model,
        agents_service(settings, bus=bus, model=model, signer=signer) as running,
    ):
        await running.wait()


if __name__ == "__main__":
    run(main(load(AgentsSettings)))
