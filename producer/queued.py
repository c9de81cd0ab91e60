"""Queued: from a broker to the runs that have work in Redis, the images that wait there, and one chunk of each run."""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import redis
from kombu.transport.redis import PRIORITY_STEPS, Channel

from config.custody import CUSTODY_PREFIX
from config.errors import ContractError
from config.messages import Chunk
from config.settings import Settings
from producer.held import FEEDING_PREFIX

#: Runs in Redis, at one moment, so that no message moves meanwhile, and so that only one message of each run crosses
#: the network. KEYS: the hash of delivered messages, then queues. A message of ours shows `"kwargsrepr": "run=… …
#: images=…"` in its headers (Chunk.describe); those of other senders are returned as they are.
_QUEUED = """
local runs, images, messages, strange = {}, {}, {}, {}
local function look(message)
  local run, count = string.match(message, '"run=(%S+) mode=%S+ model=%S+ chunk=%S+ images=(%d+)"')
  if not run then strange[#strange + 1] = message return end
  if not images[run] then
    runs[#runs + 1] = run
    images[run] = 0
    messages[run] = message
  end
  images[run] = images[run] + tonumber(count)
end
for _, message in ipairs(redis.call('HVALS', KEYS[1])) do look(message) end
for i = 2, #KEYS do
  for _, message in ipairs(redis.call('LRANGE', KEYS[i], 0, -1)) do look(message) end
end
local found = {}
for _, run in ipairs(runs) do found[#found + 1] = {run, images[run], messages[run]} end
return {found, strange}
"""


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """What of a run is queued or delivered; `chunk` is any one of them, None where it cannot be read."""

    run_id: str
    images: int
    chunk: Chunk | None


def queued_runs(client: redis.Redis, settings: Settings, queues: Collection[str] = frozenset()) -> dict[str, QueuedRun]:
    """The runs that have messages in the queues (and in these), or delivered and not acknowledged; by id."""
    lists = [
        f"{queue}{Channel.sep}{step}" if step else queue
        for queue in sorted({settings.queue, settings.now_queue, *queues})
        for step in PRIORITY_STEPS
    ]
    keys = [Channel.unacked_key, *lists]
    answer: Any = client.eval(_QUEUED, len(keys), *keys)
    known, strange = answer
    images: Counter[str] = Counter()
    chunks: dict[str, Chunk | None] = {}
    for name, count, message in known:
        run_id = name.decode("utf-8", "replace")
        images[run_id] += count
        chunks[run_id] = read_chunk(message)
    for message in strange:
        chunk = read_chunk(message)
        if chunk is not None:
            images[chunk.job.run_id] += len(chunk.keys)
            chunks.setdefault(chunk.job.run_id, chunk)
    return {run_id: QueuedRun(run_id, count, chunks[run_id]) for run_id, count in images.items()}


def restless_runs(client: redis.Redis) -> set[str]:
    """Ids of the runs that a producer feeds, or that workers have in hand: somebody may have resumed them."""
    return {
        key.decode("utf-8", "replace").removeprefix(prefix)
        for prefix in (FEEDING_PREFIX, CUSTODY_PREFIX)
        for key in client.scan_iter(f"{prefix}*")
    }


def read_chunk(message: bytes) -> Chunk | None:
    """The chunk of a Celery message as it lies in Redis; None where it is none, which a worker will refuse.

    What was delivered lies in a list with the names of its exchange and its queue.
    """
    try:
        found = json.loads(message)
        envelope = found[0] if isinstance(found, list) else found
        body = envelope["body"]
        if envelope["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        if envelope["headers"].get("compression") == "application/x-gzip":
            body = zlib.decompress(body)
        _, kwargs, _ = json.loads(body)
        return Chunk.from_message(kwargs["chunk"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error, ContractError):
        return None
