"""Transport: kombu's Redis transport, in which a message that cannot be read ends itself and not the worker.

kombu reads a message where it answers the event loop, and an error there takes the whole worker down, the next
worker with it when somebody sends more of the kind (measured). What Redis gave out is gone from the queue, so all
that is left to do is to say so.
"""

from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar

from kombu.transport import redis

#: What reading raises on bytes that are no message: JSON, base64, a missing or misshapen part.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

Refuse = Callable[[str], None]


def _say_nothing(reason: str) -> None:
    """Nobody asked to be told."""


class Channel(redis.Channel):
    """Takes the next message when one could not be read."""

    refuse: ClassVar[Refuse] = staticmethod(_say_nothing)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except UNREADABLE as error:
            type(self).refuse(f"not a message: {type(error).__name__}")
            raise Empty from error


class Transport(redis.Transport):
    """Only its channels differ."""

    Channel = Channel


def transport_that_tells(refuse: Refuse) -> str:
    """The name of a transport that tells `refuse` why a message was dropped, and goes on.

    A name and not the class: a worker tells its options to Flower as JSON.
    """
    Channel.refuse = staticmethod(refuse)
    return f"{__name__}:{Transport.__name__}"
