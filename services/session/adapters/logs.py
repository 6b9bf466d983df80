"""What the logs of turns and of sessions have in common."""

from redis.exceptions import RedisError

from services.session.adapters.pipeline import Pipeline
from services.session.adapters.quarantine import put_aside
from services.session.adapters.refusals import refusal
from services.session.adapters.replies import milliseconds
from services.session.adapters.transaction import CommitUnknown, Conflict, Transaction
from services.session.errors import ErrorType
from services.session.observing import seen
from services.session.ports import Damage


class Logs(Pipeline):
    """Streams, and what else may be found under their names."""

    async def _put_aside(self, key: str) -> bool:
        """Move what is no log out of the way: whoever writes next begins one.

        False if there is a log, or nothing.
        """
        try:
            async with Transaction(self._servers, key) as transaction:
                time_, kind = await transaction.read([key], [("TIME",), ("TYPE", key)])
                if kind in (b"none", b"stream"):
                    return False
                seen(ErrorType.SERIALIZATION, f"log: {Damage.WRONG_TYPE}")
                aside = put_aside(key, Damage.WRONG_TYPE, milliseconds(time_))
                await transaction.commit(aside)
        except (Conflict, CommitUnknown):
            pass  # somebody else did it just now, or it is met again
        except (RedisError, OSError) as error:
            raise refusal(error) from error
        return True
