"""The README's message from any Celery application, sent from an environment that has only celery and redis."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import obstore
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from config.settings import Settings
from producer.processes import Child
from tests.conftest import require
from tests.images import noise

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with celery[redis] and what that needs."""
    home = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
    wanted = [f"celery[redis]=={version('celery')}", f"kombu=={version('kombu')}", f"redis=={version('redis')}"]
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *wanted]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    require(done.returncode == 0, f"a package index, for a bare environment ({done.stderr.strip()[-200:]})")
    return home / "bin" / "python"


def readme_code(settings: Settings, bucket: str) -> str:
    """The block of the README, with this test's servers in place of the example's."""
    section = README.read_text(encoding="utf-8").partition("## From any Celery application")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    code = found[1].replace("redis://…", settings.broker_url.get_secret_value())
    code = code.replace('queue="pixelherd"', f'queue="{settings.queue}"').replace("s3://bucket/", f"s3://{bucket}/")
    return code.replace('"bucket": "bucket"', f'"bucket": "{bucket}"')


def test_the_readme_s_message_is_worked_on(
    bare_python: Path, worker: Callable[..., Child], settings: Settings, store: S3Store, bucket: str, tmp_path: Path
) -> None:
    for key in ("photos/a.jpg", "photos/b.jpg"):
        obstore.put(store, key, noise(1))
    child = worker()
    script = tmp_path / "send.py"
    script.write_text(readme_code(settings, bucket), encoding="utf-8")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run([bare_python, script], check=True, timeout=60, cwd=tmp_path, env=env)

    deadline = time.monotonic() + 120
    while not (summaries := [f for page in obstore.list(store, "results/my-run-1/summaries/") for f in page]):
        child.check()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(summaries) == 1
    (part,) = [found for page in obstore.list(store, "results/my-run-1/parts/") for found in page]
    rows = pq.read_table(BytesIO(bytes(obstore.get(store, part["path"]).bytes()))).to_pylist()
    assert [(row["key"], row["status"]) for row in rows] == [("photos/a.jpg", "ok"), ("photos/b.jpg", "ok")]
