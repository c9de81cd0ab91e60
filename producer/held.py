"""Held: from a broker to the chunks of a run that somebody has: in a queue, delivered to a worker, or in its hand."""

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from kombu.transport.redis import PRIORITY_STEPS, Channel

from config.clients import make_redis
from config.custody import custody_key
from config.errors import ContractError
from config.results import ChunkPlace
from config.settings import Settings
from config.steps import STEP_PREFIX, TRAINING_PLACE

#: Seconds that the broker may take for one answer, and no second try: the next look comes soon.
ANSWER_TIMEOUT_S = 5.0

#: A producer that feeds a run says so in Redis, for so long; it says it again in time.
FEEDING_PREFIX = "pixelherd:feeding:"
FEEDING_S = 30
FEEDING_RENEWALS = 3

#: A chunk's place without its length: part and first row; and the first chunk's.
Slot = tuple[int, int]
START: Slot = (0, 0)

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


def held_places(
    client: redis.Redis, settings: Settings, run_id: str, queues: Collection[str] = frozenset()
) -> set[ChunkPlace]:
    """The places of a run that are queued (here, or in these queues too), delivered or being worked on.

    TRAINING_PLACE is among them where any epoch of its training is.
    """
    lists = [
        f"{queue}{Channel.sep}{step}" if step else queue
        for queue in {settings.queue, settings.now_queue, *queues}
        for step in PRIORITY_STEPS
    ]
    keys = [Channel.unacked_key, custody_key(run_id), *lists]
    found: Any = client.eval(_HELD, len(keys), *keys, run_id)
    places = set()
    for chunk_id in found:
        with suppress(ContractError, UnicodeDecodeError):  # anybody may write anything into a header
            name = chunk_id.decode()
            places.add(TRAINING_PLACE if name.startswith(STEP_PREFIX) else ChunkPlace.parse(name))
    return places


def fed_up_to(client: redis.Redis, run_id: str) -> Slot | None:
    """The chunk at which a producer, here or elsewhere, is that sends the run's chunks at this moment.

    Chunks are sent in the manifest's order, so all before it are sent, or were done. None: nobody is sending.
    """
    found: Any = client.get(FEEDING_PREFIX + run_id)
    return None if found is None else _parse_slot(found.decode())


def _parse_slot(announcement: str) -> Slot:
    _, *place = announcement.split()
    return (int(place[0]), int(place[1])) if len(place) == len(START) else START


@contextmanager
def announced(settings: Settings, run_id: str, reached: Callable[[], Slot] = lambda: START) -> Iterator[None]:
    """Say for the length of the block that the run is being fed, and how far it is; a wiped Redis is told again."""
    ended, token = threading.Event(), secrets.token_hex(8)
    key, client = FEEDING_PREFIX + run_id, make_asker(settings)

    def announce() -> None:
        while True:
            with suppress(redis.RedisError):
                client.set(key, "{} {} {}".format(token, *reached()), ex=FEEDING_S)
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
            said: Any = client.get(key)
            if said and said.startswith(token.encode()):  # another producer may feed the run as well
                client.delete(key)
        client.close()
