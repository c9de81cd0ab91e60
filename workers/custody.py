"""Custody: from a delivered chunk to whether it may be worked on, and how many processes died of it before.

Celery counts no deliveries: a chunk that kills its process comes back for ever, and nothing in the message says
so. The count lives in Redis, one hash for each run with a field for each chunk in hand: its holder, until when
the holder counts as alive, and how many holders ended without letting go. A copy that merely runs beside the
first is told from a crash by that time, or at once where the holder was a process of this machine.
"""

import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis

from config.clients import make_redis
from config.custody import CUSTODY_PREFIX, custody_key
from config.messages import Chunk
from config.settings import Settings
from config.steps import TrainingStep

logger = logging.getLogger(__name__)

#: Renewals in the time for which a holder counts as alive: two may fail.
RENEWALS = 3

#: Seconds for one answer of Redis: a chunk does not wait for its custody as long as a worker for its next chunk.
ANSWER_TIMEOUT_S = 5.0

#: The same for a worker at the end of its grace period, whose machine may be gone in seconds.
GIVE_BACK_TIMEOUT_S = 2.0

#: Seconds after which Redis forgets a run that nobody works on; a guard, since every field is deleted when let go.
FORGET_AFTER_S = 7 * 24 * 3600

#: A field is `holder deaths until`. Returns the deaths before this holder, or -1 where another one is alive.
_TAKE = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
local now = tonumber(redis.call('TIME')[1])
local deaths = 0
if found then
  local holder, before, until_ = string.match(found, '^(%S+) (%d+) (%d+)$')
  if holder ~= ARGV[2] and holder ~= ARGV[4] and tonumber(until_) > now then return -1 end
  deaths = tonumber(before)
  if holder ~= ARGV[2] then deaths = deaths + 1 end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. deaths .. ' ' .. (now + tonumber(ARGV[3])))
redis.call('EXPIRE', KEYS[1], ARGV[5])
return deaths
"""

#: Prolongs the holder's time; 0 where another one has the chunk now. A field that is gone was wiped, not taken: it
#: is written again, or whoever looks for chunks that nobody holds would send this one a second time.
_RENEW = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if found and string.match(found, '^(%S+)') ~= ARGV[2] then return 0 end
local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[4] .. ' ' .. (now + tonumber(ARGV[3])))
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""

#: Deletes the field where it is still this holder's.
_LET_GO = """
local found = redis.call('HGET', KEYS[1], ARGV[1])
if found and string.match(found, '^(%S+)') == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
"""

#: Takes the chunks from processes that are about to be ended on purpose, without counting a death: who has a chunk
#: next adds one for the holder that is not there. ARGV: how their holders begin.
_GIVE_BACK = """
local hands = redis.call('HGETALL', KEYS[1])
for i = 1, #hands, 2 do
  local holder, deaths = string.match(hands[i + 1], '^(%S+) (%d+) %d+$')
  for _, beginning in ipairs(ARGV) do
    if holder and string.sub(holder, 1, #beginning) == beginning then
      if deaths == '0' then redis.call('HDEL', KEYS[1], hands[i])
      else redis.call('HSET', KEYS[1], hands[i], 'given-back ' .. (deaths - 1) .. ' 0') end
    end
  end
end
"""


@dataclass(frozen=True, slots=True)
class Hold:
    """A chunk in hand. `deaths` counts the holders before this one that ended without letting go."""

    run_id: str
    chunk_id: str
    holder: str
    deaths: int

    @property
    def key(self) -> str:
        return custody_key(self.run_id)


class Custody:
    """Takes, keeps and lets go of chunks for one worker process."""

    def __init__(self, settings: Settings) -> None:
        self._redis = make_redis(settings, ANSWER_TIMEOUT_S)
        # Well inside the visibility timeout: when a dead machine's chunk comes back, its holder is known to be dead.
        self._alive_s = max(2, settings.visibility_timeout_s // 2)

    def take(self, chunk: Chunk | TrainingStep) -> Hold | None:
        """Hold the chunk, or None where a living process holds it.

        Where Redis is away the chunk is worked on all the same: twice is harmless, a lost message is not.
        """
        hold = Hold(chunk.job.run_id, chunk.chunk_id, _new_holder(), 0)
        try:
            dead = self._dead_neighbour(hold)
            arguments = (hold.chunk_id, hold.holder, self._alive_s, dead, FORGET_AFTER_S)
            deaths = int(self._redis.eval(_TAKE, 1, hold.key, *arguments))
        except redis.RedisError as error:
            logger.warning("chunk=%s custody=unknown error=%s", chunk.chunk_id, type(error).__name__)
            return hold
        return None if deaths < 0 else replace(hold, deaths=deaths)

    @contextmanager
    def keeping(self, hold: Hold) -> Iterator[None]:
        """Renew the hold until the end of the block, then let go, whatever happened, unless the process dies."""
        ended = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(hold, ended), name="custody", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(redis.RedisError):  # the time runs out by itself
                self._redis.eval(_LET_GO, 1, hold.key, hold.chunk_id, hold.holder)

    def still_held(self, hold: Hold) -> bool:
        """Whether nobody else has taken the chunk meanwhile; raises RedisError where Redis is away."""
        arguments = (hold.chunk_id, hold.holder, self._alive_s, hold.deaths, FORGET_AFTER_S)
        return bool(self._redis.eval(_RENEW, 1, hold.key, *arguments))

    def _renew_until(self, hold: Hold, ended: threading.Event) -> None:
        while not ended.wait(self._alive_s / RENEWALS):
            with suppress(redis.RedisError):
                self.still_held(hold)

    def _dead_neighbour(self, hold: Hold) -> str:
        """The holder, where it was a process of this machine that has ended; a child's death is known at once."""
        found: Any = self._redis.hget(hold.key, hold.chunk_id)
        holder = found.decode().partition(" ")[0] if found else ""
        machine, _, process = holder.partition("/")
        return holder if machine == _machine() and not _is_running(process.partition("/")[0]) else ""


def give_back(settings: Settings, pids: Iterable[int]) -> None:
    """Let go of all that these processes of this machine hold, just before they are ended on purpose.

    Otherwise another machine would wait until their time is over, and count a death that the chunk did not cause.
    """
    beginnings = [f"{_machine()}/{pid}-" for pid in pids]
    with suppress(redis.RedisError), make_redis(settings, GIVE_BACK_TIMEOUT_S, retries=0) as client:
        for key in client.scan_iter(f"{CUSTODY_PREFIX}*"):
            client.eval(_GIVE_BACK, 1, key, *beginnings)


def _new_holder() -> str:
    """This machine, this process, and which of its holds it is."""
    return f"{_machine()}/{os.getpid()}-{_started(os.getpid())}/{uuid.uuid4().hex[:8]}"


def _machine() -> str:
    """One boot of one machine and its process numbers: containers of one machine have numbers of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x}"


def _is_running(process: str) -> bool:
    """Whether `pid-started` still runs; a number that was given to another process does not count."""
    pid, _, started = process.partition("-")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return _started(int(pid)) == started


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; a zombie (dead, not yet reaped) has started never."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return "0"
    return "never" if fields[0] in "ZX" else fields[19]
