"""Reads a process's metrics as Prometheus does."""

import asyncio
import urllib.request

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


async def scraped(address: str) -> dict[str, Metric]:
    """Return what the page at *address* (host:port) says, by name; URLError if nobody answers."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            text: str = page.read().decode()
        return text

    text = await asyncio.to_thread(read)
    return {family.name: family for family in text_string_to_metric_families(text)}
