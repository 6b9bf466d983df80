"""The retrieval service's composition root."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from maieutic.v1.document_service_pb2_grpc import add_DocumentServiceServicer_to_server
from services.retrieval.adapters.index import open_index
from services.retrieval.adapters.wordllama import WordllamaEmbedder
from services.retrieval.library import Library
from services.retrieval.model import Splitter
from services.retrieval.parsing.parser import Parser
from services.retrieval.ports import Embedder, VectorIndex
from services.retrieval.registry import Registry
from services.retrieval.rpc import DocumentServicer
from services.retrieval.settings import RetrievalSettings
from services.runtime.channel import open_channel
from services.runtime.identity import Signer, Verifier
from services.runtime.lifecycle import run
from services.runtime.server import RunningServer, serving
from services.runtime.settings import load
from services.runtime.telemetry import telemetry

SERVICE = "retrieval"


@asynccontextmanager
async def retrieval_service(
    settings: RetrievalSettings,
    *,
    signer: Signer,
    verifier: Verifier,
    index: VectorIndex | None = None,
    embedder: Embedder | None = None,
) -> AsyncIterator[RunningServer]:
    """Serve during the block, with the index and the embedder of the settings unless given."""
    async with AsyncExitStack() as stack:
        if embedder is None:
            embedder = await stack.enter_async_context(WordllamaEmbedder.open())
        if index is None:
            opened = open_index(settings.index_url, embedder, settings.pinecone)
            index = await stack.enter_async_context(opened)
        parser = await stack.enter_async_context(Parser.open(settings.parsing))
        channel = await stack.enter_async_context(
            open_channel(
                settings.archive_address,
                service="persistence",
                signer=signer,
                options=settings.channel,
            )
        )
        registry = Registry(channel)
        splitter = Splitter(
            embedder=embedder.name, size=settings.chunk_characters, overlap=settings.chunk_overlap
        )
        library = Library(
            registry=registry, index=index, embedder=embedder, parser=parser, splitter=splitter
        )
        servicer = DocumentServicer(library=library, registry=registry)

        def register(server: grpc.aio.Server) -> Sequence[str]:
            add_DocumentServiceServicer_to_server(servicer, server)
            return ["maieutic.v1.DocumentService"]

        async with serving(settings.server, register, verifier=verifier) as running:
            yield running


async def main(settings: RetrievalSettings) -> None:
    """Run until cancelled."""
    signer, verifier = Signer(SERVICE, settings.signing_key), Verifier(settings.public_keys)
    async with (
        telemetry(SERVICE, settings.telemetry),
        retrieval_service(settings, signer=signer, verifier=verifier) as running,
    ):
        await running.wait()


if __name__ == "__main__":
    run(main(load(RetrievalSettings)))
