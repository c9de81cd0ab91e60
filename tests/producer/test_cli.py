"""The command: what a person types, what it prints where, and with which exit code it ends."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import obstore
import pyarrow.parquet as pq
import pytest

from config.clients import make_celery, make_redis
from config.models import MODELS
from config.refusals import note_refusal
from config.settings import CONFIG_VARIABLE, Settings
from producer import cli
from producer.commands import outcome
from producer.local_stack import child_environment, write_config
from producer.ports import free_ports, is_open
from producer.processes import import_root
from tests.conftest import require
from tests.images import noise

#: Started by a person who asks for help or for the models, these cost half a second and more.
HEAVY = ("boto3", "botocore", "celery", "flower", "kombu", "obstore", "pyarrow", "redis", "rich")


#: A key that a table must not take for markup.
BROKEN = "photos/[red]no image[/].jpg"


@dataclass(frozen=True, slots=True)
class Said:
    """What the command answered."""

    code: int
    out: str
    err: str


Pixelherd = Callable[..., Said]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pixelherd:
    """Type a command."""

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["pixelherd", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def pixelherd(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Pixelherd) -> Pixelherd:
    """Type a command on a machine that knows the test's servers."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(write_config(settings, tmp_path / "cli.toml")))
    return typed


def test_a_run_from_the_shell(pixelherd, bucket, store, worker, tmp_path):
    """Submit, status, results in every format, report; one image cannot be read, so each says 3."""
    for number in range(3):
        obstore.put(store, f"photos/{number}.jpg", noise(number))
    obstore.put(store, BROKEN, b"<html>")
    worker()

    said = pixelherd("submit", "classify", f"s3://{bucket}/photos/", "--top", "2", "--json")
    assert said.code == outcome.IMAGE_ERRORS
    status = json.loads(said.out)
    assert (status["phase"], status["images"], status["errors"]) == ("done", 4, 1)
    run = status["run_id"]

    said = pixelherd("status", run)
    assert said.code == outcome.IMAGE_ERRORS
    assert said.out.startswith(f"{run}\ndone ")
    assert "4 of 4 images" in said.out
    assert json.loads(pixelherd("status", run, "--json").out)["counts"] == {"ok": 3, "undecodable": 1}

    said = pixelherd("results", run)
    assert said.code == outcome.DONE
    assert BROKEN in said.out
    assert "undecodable" in said.out
    assert "and 2 more rows" in pixelherd("results", run, "--limit", "2").out

    rows = [json.loads(line) for line in pixelherd("results", run, "--json").out.splitlines()]
    assert [row["key"] for row in rows] == [*(f"photos/{number}.jpg" for number in range(3)), BROKEN]
    assert {len(row["top_k"]) for row in rows if row["status"] == "ok"} == {2}
    cells = list(csv.DictReader(pixelherd("results", run, "--format", "csv").out.splitlines()))
    assert [json.loads(cell["top_k"]) for cell in cells if cell["top_k"]] == [
        row["top_k"] for row in rows if row["top_k"]
    ]
    assert pixelherd("results", run, "--format", "parquet", "--to", str(tmp_path / "rows.parquet")).code == outcome.DONE
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows

    said = pixelherd("report", run)
    assert said.code == outcome.IMAGE_ERRORS
    assert "efficientnet_lite0" in said.out
    assert json.loads(pixelherd("report", run, "--json").out)["record"]["job"]["top_k"] == 2
    assert pixelherd("resume", run).code == outcome.IMAGE_ERRORS


def test_a_run_that_no_worker_takes_is_cancelled_and_goes_on_after_all(pixelherd, put_keys, bucket):
    put_keys(f"photos/{number}.jpg" for number in range(5))
    output = f"s3://{bucket}/out"
    words = ("submit", "classify", f"s3://{bucket}/photos/", "--chunk-size", "2", "--no-wait", "--output", output)
    said = pixelherd(*words, "--json")
    assert said.code == outcome.DONE
    status = json.loads(said.out)
    assert (status["phase"], status["remaining"], status["chunks"]) == ("running", 5, 3)
    run = status["address"]
    assert run.startswith(output)

    assert pixelherd("status", run).code == outcome.DONE
    assert "cancelled" in pixelherd("cancel", run).out
    assert pixelherd("status", run).code == outcome.FAILED
    refused = pixelherd("resume", run)
    assert refused.code == outcome.BAD_USAGE
    assert "was cancelled" in refused.err
    assert pixelherd("resume", run, "--even-cancelled", "--no-wait").code == outcome.DONE
    assert json.loads(pixelherd("status", run, "--json").out)["phase"] == "running"


def test_a_person_sees_what_would_mislead_them(pixelherd, put_keys, bucket, settings, monkeypatch):
    put_keys(["photos/a.jpg"])
    words = ("submit", "classify", f"s3://{bucket}/photos/", "--output", f"s3://{bucket}/out", "--weights", "random")
    run = json.loads(pixelherd(*words, "--no-wait", "--json").out)["address"]
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False)
    assert "\x1b[31m\x1b[1mRANDOM WEIGHTS" in pixelherd("report", run).out

    assert "refused" not in pixelherd("status", run).err
    with make_redis(settings) as client:
        note_refusal(client, "version: Input should be 1")
    assert "workers refused 1 messages, the last at" in pixelherd("status", run).err
    assert "version: Input should be 1" in pixelherd("status", run).err


def test_ctrl_c_says_how_the_run_goes_on(settings, put_keys, bucket, tmp_path):
    put_keys(f"photos/{number}.jpg" for number in range(5))
    process = subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "submit", "classify", f"s3://{bucket}/photos/"],
        env={**child_environment(write_config(settings, tmp_path / "cli.toml")), "XDG_STATE_HOME": str(tmp_path)},
        cwd=import_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr
        assert process.stderr.readline()  # the first line of progress: the run has begun
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == outcome.INTERRUPTED
    assert out == ""
    assert "`pixelherd status " in err or "`pixelherd resume " in err
    assert "Traceback" not in err


def typed_elsewhere(settings: Settings, directory: Path, word: str) -> "subprocess.Popen[str]":
    """Type a command in a directory whose `config` and `workers` are somebody else's."""
    for package in ("config", "workers"):
        (directory / package).mkdir()
        (directory / package / "__init__.py").write_text("raise SystemExit('a stranger')")
    config = write_config(settings, directory / "cli.toml")
    environment = {**child_environment(config), "PYTHONPATH": str(import_root()), CONFIG_VARIABLE: config.name}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "from producer.cli import main; main()", word],
        env=environment,
        cwd=directory,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(ready: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_is_started_wherever_a_person_types_it(settings, tmp_path):
    for package in ("keras", "openvino", "PIL"):
        require(find_spec(package), package)
    with typed_elsewhere(settings, tmp_path, "worker") as process, make_celery(settings) as app:
        wait_for(lambda: app.control.ping(timeout=0.3, limit=1), process)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_flower_is_started_wherever_a_person_types_it_and_tells_its_login(settings, tmp_path):
    require(find_spec("flower"), "flower")
    settings = settings.model_copy(update={"flower_port": free_ports(1)[0]})
    with typed_elsewhere(settings, tmp_path, "flower") as process:
        wait_for(lambda: is_open(settings.flower_port), process)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    assert re.search(
        r"^Flower at http://127\.0\.0\.1:\d+, user pixelherd, password \S{16} \(made for this run\)$", err, re.M
    )


def test_flower_is_not_started_open_to_others(typed, monkeypatch):
    monkeypatch.setenv("PIXELHERD_FLOWER_ADDRESS", "0.0.0.0")
    found = typed("flower")
    assert found.code == outcome.BAD_USAGE
    assert "PIXELHERD_FLOWER_PASSWORD" in found.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sumbit classify s3://b/", "Did you mean 'submit'?"),
        ("submit", "Missing argument 'MODE'"),
        ("submit clasify s3://b/", "did you mean classify?"),
        ("submit fine_tun s3://b/", "did you mean fine_tune?"),
        ("submit classify b/photos", "begins with s3://"),
        ("submit classify s3://b/ --model resnet5", "did you mean resnet50 or"),
        ("submit classify s3://b/ --top 0", "top_k"),
        ("submit classify s3://b/ --top 1001", "top_k"),
        ("submit classify s3://b/ --top many", "--top"),
        ("submit classify s3://b/ --engine openvno", "did you mean openvino?"),
        ("submit classify s3://b/ --precision int8", "float32"),
        ("submit classify s3://b/ --weights http://x/y.h5", "names no weights"),
        ("submit classify s3://b/ --chunk-size 0", "--chunk-size"),
        ("status nothing", "no run 'nothing'"),
        ("results s3://b/run --format xml", "--format"),
        ("demo --images /nowhere/at/all", "--images"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(typed, words, said):
    found = typed(*words.split())
    assert found.code == outcome.BAD_USAGE
    assert found.out == ""
    assert said in found.err
    assert found.err.startswith("pixelherd: ")
    assert found.err.count("\n") == 1


def test_settings_that_are_wrong_are_named_in_one_line(typed, monkeypatch):
    monkeypatch.setenv("PIXELHERD_BROKR_URL", "redis://host")
    found = typed("status", "s3://b/run")
    assert found == Said(outcome.BAD_USAGE, "", "pixelherd: PIXELHERD_BROKR_URL is no setting\n")


def test_a_source_or_an_output_that_is_not_there_is_refused(pixelherd, put_keys, bucket):
    put_keys(["photos/a.jpg"])
    there, nowhere = f"s3://{bucket}/photos/", "s3://no-such-bucket-here/"
    for words in ([f"s3://{bucket}/empty/"], [nowhere], [there, "--output", nowhere], [there, "--output", "/home/me"]):
        found = pixelherd("submit", "classify", *words)
        assert found.code == outcome.BAD_USAGE
        assert found.err.startswith("pixelherd: ")
        assert found.err.count("\n") == 1


def test_a_broker_that_is_down_is_said_in_one_line(pixelherd, bucket, monkeypatch):
    monkeypatch.setenv("PIXELHERD_BROKER_URL", "redis://127.0.0.1:1/0")
    found = pixelherd("submit", "classify", f"s3://{bucket}/")
    assert found.code == outcome.FAILED
    assert "cannot reach the broker" in found.err
    assert found.err.count("\n") == 1


def test_parquet_wants_a_file(pixelherd, put_keys, bucket):
    put_keys(["a.jpg"])
    run = json.loads(pixelherd("submit", "classify", f"s3://{bucket}/a.jpg", "--no-wait", "--json").out)["address"]
    assert "--to" in pixelherd("results", run, "--format", "parquet").err
    assert pixelherd("results", run, "--to", "/nowhere/rows.csv").code == outcome.BAD_USAGE


def test_the_models(typed):
    *rows, own = typed("models").out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == list(MODELS)
    assert "--model s3://bucket/model.keras" in own
    assert [spec["name"] for spec in json.loads(typed("models", "--json").out)] == list(MODELS)


def test_the_layers_of_a_model(typed):
    rows = typed("layers", "vgg19").out.splitlines()
    assert len(rows) == 1 + 26
    found = next(row.split() for row in rows if "block4_pool" in row)
    assert found[1:] == ["block4_pool", "MaxPooling2D", "14", "×", "14", "×", "512", "0", "401,408", "401.4"]
    assert found[0] == str(rows[1:].index(next(row for row in rows if "block4_pool" in row)))
    assert json.loads(typed("layers", "vgg19", "--json").out)[0]["shape"] == [224, 224, 3]
    missed = typed("layers", "vgg_19")
    assert missed.code == outcome.BAD_USAGE
    assert "did you mean vgg19" in missed.err


@pytest.mark.parametrize("words", [("--help",), ("-h",), *((name, "--help") for name in cli.cli.commands)])
def test_everything_explains_itself(typed, words):
    found = typed(*words)
    assert found.code == outcome.DONE
    assert found.out.startswith("Usage: pixelherd")


def test_the_exit_codes_are_documented(typed):
    text = typed("--help").out
    for code in (outcome.DONE, outcome.FAILED, outcome.BAD_USAGE, outcome.IMAGE_ERRORS, outcome.INTERRUPTED):
        assert f"{code} " in text.partition("Exit codes:")[2]


def test_a_person_who_asks_for_help_does_not_wait_for_boto3():
    code = f"import sys; import producer.cli; print([name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=import_root(), capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
