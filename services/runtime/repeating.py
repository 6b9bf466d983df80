"""Work that is done again and again, beside all else."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

from services.runtime.errors import ServiceError

LOG = logging.getLogger(__name__)


async def again_and_again(
    work: Callable[[], Awaitable[object]], *, seconds: float, what: str
) -> NoReturn:
    """Do the work about every so many *seconds* until cancelled; what fails is told as *what*."""
    while True:
        # Replicas that started together do not stay together.
        await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - spreads, hides nothing
        try:
            await work()
        except ServiceError as error:
            LOG.warning("%s later: %s", what, error.__cause__ or error)
        # A supervision loop: one failure must not be the last thing that is done.
        except Exception:
            LOG.exception("%s later", what)
