"""Refusals: messages that no worker understood, from the worker that refused one to the person who asks for them.

Celery drops such a message in silence. A short list in Redis keeps the last of them, with the reason and without
the message itself, which may be large or secret.
"""

import json
from datetime import UTC, datetime
from typing import Any

import redis

#: One list for all queues of a broker: a message that makes no sense names no run.
REFUSALS_KEY = "pixelherd:refused"

#: Refusals that are kept; a sender that is wrong is wrong in the same way again and again.
KEPT_REFUSALS = 100

#: Characters of a reason that are kept.
REASON_CHARACTERS = 300


def note_refusal(client: "redis.Redis", reason: str) -> None:
    """Put a refusal in front of the list; the message itself is gone for good."""
    entry = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason[:REASON_CHARACTERS]})
    with client.pipeline() as pipe:
        pipe.lpush(REFUSALS_KEY, entry)
        pipe.ltrim(REFUSALS_KEY, 0, KEPT_REFUSALS - 1)
        pipe.execute()


def read_refusals(client: "redis.Redis") -> list[dict[str, Any]]:
    """The kept refusals, newest first: `at` and `reason`."""
    entries: Any = client.lrange(REFUSALS_KEY, 0, -1)
    return [json.loads(entry) for entry in entries]
