"""Transport: kombu's Redis transport, in which a message that cannot be read ends itself and not the worker.

kombu reads a message where it answers the event loop, and an error there takes the whole worker down, the next
worker with it when somebody sends more of the kind (measured). What Redis gave out is gone from the queue, so all
that is left to do is to say so.
"""

from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import redis

#: What reading raises on bytes that are no message: JSON, base64, a missing or misshapen part.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)

Refuse = Callable[[str], None]


def make_transport(refuse: Refuse) -> type[redis.Transport]:
    """A transport that tells `refuse` why a message was dropped, and goes on."""

    class Channel(redis.Channel):
        """Takes the next message when one could not be read."""

        def _brpop_read(self, **options: Any) -> Any:
            try:
                return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
            except UNREADABLE as error:
                refuse(f"not a message: {type(error).__name__}")
                raise Empty from error

    class Transport(redis.Transport):
        """Only its channels differ."""

    Transport.Channel = Channel
    return Transport
