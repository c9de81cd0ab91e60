"""The fleet's path in the Parameter Store -> settings.toml and broker-ca.pem in a directory, readable by their owner.

Run before each start of a worker, so a broker that moved or a password that changed needs no new image. The secret
is in no argument, no environment and no image.
"""

import argparse
import os
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

NAMES = ("settings.toml", "broker-ca.pem")

#: Tries of one call, with growing waits: a hundred machines that start together are throttled.
TRIES = 10


def main() -> None:
    """Write each parameter to its file, or say in one line why not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", required=True, help="for instance /pixelherd/demo/worker")
    parser.add_argument("--region", required=True)
    parser.add_argument("--directory", required=True, type=Path)
    given = parser.parse_args()
    retries = Config(retries={"mode": "adaptive", "total_max_attempts": TRIES}, connect_timeout=5, read_timeout=10)
    store = boto3.client("ssm", region_name=given.region, config=retries)
    for name in NAMES:
        try:
            value = store.get_parameter(Name=f"{given.path}/{name}", WithDecryption=True)["Parameter"]["Value"]
        except (BotoCoreError, ClientError) as error:
            sys.exit(f"parameter {given.path}/{name}: {error}")
        write_private(given.directory / name, value)


def write_private(path: Path, text: str) -> None:
    """Mode 0600 from the first byte on, and never half a file."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


if __name__ == "__main__":
    main()
