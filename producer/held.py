"""Held: from a broker to the chunks of a run that somebody has: in a queue, delivered to a worker, or in its hand."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from kombu.transport.redis import PRIORITY_STEPS, Channel

from config.clients import make_redis
from config.custody import custody_key
from config.errors import ContractError
from config.results import ChunkPlace
from config.settings import Settings

#: Seconds that the broker may take for one answer, and no second try: the next look comes soon.
ANSWER_TIMEOUT_S = 5.0

#: A producer that feeds a run says so in Redis, for so long; it says it again in time.
FEEDING_PREFIX = "pixelherd:feeding:"
FEEDING_S = 30
FEEDING_RENEWALS = 3

#: Runs in Redis, so that not every message crosses the network, and at one moment, so that none moves meanwhile.
#: KEYS: the hash of delivered messages, the run's custody, then queues. A message shows `"kwargsrepr": "run=…
#: chunk=… images=…"` in its headers (Chunk.describe); its body is packed. A custody's field is a chunk's id.
_HELD = """
local held = {}
local needle = '"run=' .. ARGV[1] .. ' '
local function look(message)
  local _, at = string.find(message, needle, 1, true)
  if at then held[#held + 1] = string.match(message, 'chunk=(%S+) ', at) end
end
for _, message in ipairs(redis.call('HVALS', KEYS[1])) do look(message) end
local now = tonumber(redis.call('TIME')[1])
local hands = redis.call('HGETALL', KEYS[2])
for i = 1, #hands, 2 do
  local until_ = string.match(hands[i + 1], ' (%d+)$')
  if until_ and tonumber(until_) > now then held[#held + 1] = hands[i] end
end
for i = 3, #KEYS do
  for _, message in ipairs(redis.call('LRANGE', KEYS[i], 0, -1)) do look(message) end
end
return held
"""


def make_asker(settings: Settings) -> redis.Redis:
    """A client that asks once and waits for seconds: who looks again soon need not insist."""
    return make_redis(settings, ANSWER_TIMEOUT_S, retries=0)


def held_places(client: redis.Redis, settings: Settings, run_id: str) -> set[ChunkPlace]:
    """The places of a run that are queued, delivered or being worked on."""
    queues = [
        f"{queue}{Channel.sep}{step}" if step else queue
        for queue in (settings.queue, settings.now_queue)
        for step in PRIORITY_STEPS
    ]
    keys = [Channel.unacked_key, custody_key(run_id), *queues]
    found: Any = client.eval(_HELD, len(keys), *keys, run_id)
    places = set()
    for chunk_id in found:
        with suppress(ContractError, UnicodeDecodeError):  # anybody may write anything into a header
            places.add(ChunkPlace.parse(chunk_id.decode()))
    return places


def is_fed(client: redis.Redis, run_id: str) -> bool:
    """Whether a producer, here or elsewhere, is sending the run's chunks at this moment."""
    return bool(client.exists(FEEDING_PREFIX + run_id))


@contextmanager
def announced(settings: Settings, run_id: str) -> Iterator[None]:
    """Say for the length of the block that the run is being fed; a wiped or restarted Redis is told again."""
    ended, token = threading.Event(), secrets.token_hex(8)
    key, client = FEEDING_PREFIX + run_id, make_asker(settings)

    def announce() -> None:
        while True:
            with suppress(redis.RedisError):
                client.set(key, token, ex=FEEDING_S)
            if ended.wait(FEEDING_S / FEEDING_RENEWALS):
                return

    thread = threading.Thread(target=announce, name="announcer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(redis.RedisError):
            if client.get(key) == token.encode():  # another producer may feed the run as well
                client.delete(key)
        client.close()
