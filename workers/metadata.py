"""Metadata: from AWS's instance metadata service, version 2, to a value of this machine, and to the notice of its end.

Names and clocks are those of the EC2 user guide ("Spot Instance interruption notices") and the EC2 Auto Scaling
user guide ("Retrieve the target lifecycle state through instance metadata").
"""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

#: Seconds for one answer; the service is on the machine itself.
ANSWER_TIMEOUT_S = 2.0

#: Seconds for which a session token is asked for, the longest that there is; a new one is asked for at half of it.
TOKEN_TTL_S = 21_600

#: Seconds between a spot notice and the machine's end, where the notice does not say when.
SPOT_NOTICE_S = 120.0

SPOT = "spot/instance-action"
TARGET_STATE = "autoscaling/target-lifecycle-state"
REBALANCE = "events/recommendations/rebalance"


class MetadataError(OSError):
    """The service answers, and not with what it is documented to say."""


class Metadata:
    """One machine's metadata. No proxy is ever asked: the address is the machine's own."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._host, self._port = place.hostname or "", place.port or 80
        self._token: str | None = None
        self._renew_at = 0.0

    def read(self, name: str) -> str | None:
        """The value below meta-data/, or None where there is none; OSError where the service does not answer."""
        status, text = self._get(name)
        if status == 401:  # the token's time was over before ours
            self._token = None
            status, text = self._get(name)
        if status not in (200, 404):
            raise MetadataError(f"meta-data/{name}: status {status}")
        return text if status == 200 else None

    def _get(self, name: str) -> tuple[int, str]:
        if self._token is None or time.monotonic() > self._renew_at:
            status, token = self._ask("PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)})
            if status != 200:
                raise MetadataError(f"no session token: status {status}")
            self._token, self._renew_at = token, time.monotonic() + TOKEN_TTL_S / 2
        return self._ask("GET", f"meta-data/{name}", {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, name: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = HTTPConnection(self._host, self._port, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request(method, f"/latest/{name}", headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", errors="replace").strip()
        except HTTPException as error:
            raise MetadataError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()


class Why(StrEnum):
    """Whose clock runs."""

    SPOT = "spot"
    SCALE_IN = "scale_in"


@dataclass(frozen=True, slots=True)
class Notice:
    """This machine ends: why, and in how many seconds; None: when the group's hook has been completed."""

    why: Why
    left_s: float | None = None


def read_notice(metadata: Metadata) -> Notice | None:
    """What the machine is told of its end, the shorter clock first; OSError where the service does not answer."""
    spot = metadata.read(SPOT)
    if spot is not None:
        return Notice(Why.SPOT, _seconds_left(spot))
    if metadata.read(TARGET_STATE) == "Terminated":
        return Notice(Why.SCALE_IN)
    return None


def _seconds_left(spot: str) -> float:
    """From {"action": "terminate", "time": "2026-11-22T13:40:00Z"}; stop and hibernate end the work as well."""
    try:
        end = datetime.fromisoformat(json.loads(spot)["time"])
        left_s = (end - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, KeyError):  # it says that the end comes, which is what counts
        return SPOT_NOTICE_S
    return min(max(left_s, 0.0), SPOT_NOTICE_S)
