"""Accuracy through a real worker, from Python, from the command and from plain Celery: what classify's rows say."""

import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

import producer
from config.classes import imagenet_labels
from config.clients import make_celery, make_redis, make_s3
from config.messages import Chunk, Job, Mode, TaskName
from config.refusals import read_refusals
from config.results import ChunkSummary, Tally
from config.settings import CONFIG_VARIABLE, Settings
from producer import cli
from producer.accuracy import Share
from producer.commands import outcome
from producer.local_stack import write_config
from producer.processes import Child
from tests.images import noise
from tests.integration.test_worker import rows_of, summary_key, wait_for

MODEL = "efficientnet_lite0"
IMAGES = 20

#: Names the directory of labelled photographs, <class id>_<name>.JPEG, where somebody has them.
PHOTOGRAPHS = "LABELLED_PHOTOGRAPHS"

StartWorker = Callable[..., Child]
Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Typed:
    """Type a command on a machine that knows the test's servers; its exit code and what it printed."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(write_config(settings, tmp_path / "cli.toml")))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pixelherd", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images with the rank that their label must have: what classify says of all classes is the judge."""

    bodies: list[bytes]
    labels: list[int]
    ranks: list[int]
    worker: Child

    @property
    def top1(self) -> Share:
        return Share(sum(rank == 1 for rank in self.ranks), len(self.ranks))

    @property
    def top5(self) -> Share:
        return Share(sum(rank <= 5 for rank in self.ranks), len(self.ranks))


@pytest.fixture
def labelled(worker: StartWorker, settings: Settings, store: S3Store, bucket: str) -> Labelled:
    """A worker, and drawn images whose labels are their best class, their third, or their tenth, turn about."""
    child = worker()
    bodies = [noise(number) for number in range(IMAGES)]
    keys = [f"plain/{number:02}.jpg" for number in range(IMAGES)]
    for key, body in zip(keys, bodies, strict=True):
        obstore.put(store, key, body)
    uris = [f"s3://{bucket}/{key}" for key in keys]
    rows = producer.classify(uris, settings=settings, model=MODEL, top_k=1_000)
    number_of = {label.class_id: number for number, label in enumerate(imagenet_labels())}
    ranks = [(1, 3, 10, 1)[number % 4] for number in range(IMAGES)]
    best = [[number_of[one["class_id"]] for one in top] for top in rows["top_k"].to_pylist()]
    return Labelled(bodies, [order[rank - 1] for order, rank in zip(best, ranks, strict=True)], ranks, child)


def put_all(store: S3Store, names: list[str], bodies: list[bytes]) -> None:
    for name, body in zip(names, bodies, strict=True):
        obstore.put(store, name, body)


def check(report: producer.RunReport, labelled: Labelled) -> None:
    """The report says what a direct computation says, from the rows and from the summaries alike."""
    found = report.evaluation
    assert found is not None
    assert (found.top1, found.top5) == (labelled.top1, labelled.top5)
    assert report.status.tally[Tally.RANKED] == IMAGES
    assert (report.status.tally[Tally.TOP1], report.status.tally[Tally.TOP5]) == (found.top1.hits, found.top5.hits)
    images = Counter(imagenet_labels()[number].class_id for number in labelled.labels)
    assert {one.class_id: one.top1.images for one in found.classes} == images
    assert found.calibration_error is not None


def test_a_manifest_s_column_from_python(labelled, settings, store, bucket, tmp_path):
    """Labels by id, name and number, one key without, one image that cannot be read: all of it is counted."""
    obstore.put(store, "plain/broken.jpg", b"<html>")
    spellings: list[Callable[[int], str]] = [
        str,
        lambda n: imagenet_labels()[n].class_id,
        lambda n: imagenet_labels()[n].class_name,
    ]
    names = Counter(label.class_name for label in imagenet_labels())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "kind"])
        for number, label in enumerate(labelled.labels):
            spelt = spellings[number % 3](label)
            writer.writerow([f"plain/{number:02}.jpg", str(label) if names[spelt] > 1 else spelt])
        writer.writerows([["plain/broken.jpg", "goldfish"], ["plain/00.jpg", "tench"]])
    obstore.put(store, "plain/no-label.jpg", noise(99))
    with (tmp_path / "labels.csv").open("a", newline="") as file:
        file.write("plain/no-label.jpg,\n")

    small = settings.model_copy(update={"chunk_size": 7})
    found = producer.evaluate(
        tmp_path / "labels.csv", [MODEL], settings=small, labels="column:kind", bucket=bucket, on_event=pytest.fail
    )
    (line,) = found.lines
    check(line.report, labelled)
    evaluation = line.report.evaluation
    assert evaluation is not None
    assert (line.report.status.done, evaluation.unlabelled) == (IMAGES + 2, 1)
    assert evaluation.failed == {"undecodable": 1}
    assert evaluation.top1_of_all == Share(labelled.top1.hits, IMAGES + 1)
    assert line.shares == (labelled.top1, labelled.top5)

    run = producer.open_run(line.report.status.address, settings=small)
    rows = {row["key"]: row for row in run.results().to_pylist()}
    for number, (label, rank) in enumerate(zip(labelled.labels, labelled.ranks, strict=True)):
        row = rows[f"plain/{number:02}.jpg"]
        assert (row["label"], row["rank"]) == (imagenet_labels()[label].class_id, rank)
    assert (rows["plain/broken.jpg"]["label"], rows["plain/broken.jpg"]["rank"]) == ("goldfish", None)
    assert (rows["plain/no-label.jpg"]["label"], rows["plain/no-label.jpg"]["rank"]) == (None, None)

    page = bytes(obstore.get(store, run.address.report_key).bytes()).decode()
    assert page.count("<svg ") == 2
    priced = found.at(3.6).lines[0]
    assert priced.images_per_s is not None
    assert priced.dollars_per_million == pytest.approx(1000 / priced.images_per_s)
    assert json.loads(found.to_json())["models"][0]["top1"]["hits"] == labelled.top1.hits
    assert "left out: 1 image with a label and an error (1 undecodable)" in line.report.to_text()


def test_folders_and_a_pattern_from_the_command(labelled, typed, settings, store, bucket, tmp_path):
    """One table; then one run whose page is written to a file. A class without images is in neither."""
    ids = [imagenet_labels()[number].class_id for number in labelled.labels]
    put_all(store, [f"folders/{found}/deeper/{number}.jpg" for number, found in enumerate(ids)], labelled.bodies)
    with closing(make_s3(settings)) as s3:  # obstore would leave the slash out
        s3.put_object(Bucket=bucket, Key="folders/n01443537/", Body=b"")
    put_all(store, [f"flat/{found}_{number}.jpg" for number, found in enumerate(ids)], labelled.bodies)

    code, out = typed("evaluate", f"s3://{bucket}/folders/", "--models", MODEL)
    assert code == outcome.DONE, out
    low, high = labelled.top1.interval
    assert re.search(rf"{MODEL} +{100 * labelled.top1.value:.1f} \({100 * low:.1f} to {100 * high:.1f}\) +75\.1 ", out)
    assert "at $0.34 an hour of a machine (a c5.2xlarge" in out
    assert "/report.html" in out

    code, out = typed(
        "submit", "evaluate", f"s3://{bucket}/flat/", "--model", MODEL, "--labels", "{label}_*.jpg", "--json"
    )
    assert code == outcome.DONE, out
    run = json.loads(out)["run_id"]
    code, out = typed("report", run, "--json", "--html", str(tmp_path / "page.html"))
    assert code == outcome.DONE, out
    assert json.loads(out)["evaluation"]["top1"] == labelled.top1.to_json()
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<svg ") == 2
    assert f"top-1     {labelled.top1} of {IMAGES} images" in typed("report", run)[1]
    shown = [line.split() for line in typed("results", run)[1].splitlines() if line.startswith("flat/")]
    assert Counter(line[-1] for line in shown) == Counter(map(str, labelled.ranks))


def test_labels_from_plain_celery(labelled, settings, store, bucket):
    """What no class is called has a label and no rank; without labels a message makes no sense."""
    keys = [f"plain/{number:02}.jpg" for number in range(4)]
    asked = Job(run_id="mine", mode=Mode.EVALUATE, model=MODEL, output=f"s3://{bucket}/out")
    labels = (str(labelled.labels[0]), "no such class", None, "crane")
    chunk = Chunk(job=asked, bucket=bucket, keys=tuple(keys), labels=labels)
    app = make_celery(settings)
    for message in ({**chunk.to_message(), "labels": None}, {**chunk.to_message(), "labels": ["one"]}):
        app.send_task(TaskName.EVALUATE, kwargs={"chunk": message}, queue=settings.queue)
    app.send_task(TaskName.EVALUATE, kwargs={"chunk": chunk.to_message()}, queue=settings.queue)
    summary = ChunkSummary.from_json(wait_for(store, summary_key(chunk), labelled.worker))
    assert summary.tally == {"ranked": 1, "top1": 1, "top5": 1, "unknown": 2, "failed": 0}
    rows = rows_of(store, chunk).to_pylist()
    first = imagenet_labels()[labelled.labels[0]].class_id
    assert [(row["label"], row["rank"]) for row in rows] == [
        (first, 1),
        ("no such class", None),
        (None, None),
        ("crane", None),
    ]
    assert rows[0]["class_id"] == first
    with make_redis(settings) as client:
        reasons = " ".join(refusal["reason"] for refusal in read_refusals(client))
    assert "labels: evaluate needs one for each key, null where a key has none" in reasons
    assert "1 labels for 4 keys" in reasons


def test_labels_that_cannot_be_are_refused_in_one_line(typed, store, bucket):
    for key in ("in/tench/1.jpg", "in/golfish/1.jpg", "cranes/crane/1.jpg", "stray/1.jpg"):
        obstore.put(store, key, b"image")
    for source, rule, said in (
        ("in/", "folder", "the label 'golfish' names no class of the model: did you mean goldfish?"),
        ("cranes/", "folder", "the label 'crane' names 2 classes: write n02012849 and n03126707"),
        ("stray/", "folder", "have no label by 'folder' (1 looked at, such as 'stray/1.jpg')"),
        ("in/", "pattern:(", "is no pattern for labels"),
        ("in/", "pattern:x", "does not say where the label is"),
        ("in/", "column:kind", "has no columns to take labels from"),
        ("in/", "fodler", "did you mean folder?"),
    ):
        code, out = typed("evaluate", f"s3://{bucket}/{source}", "--models", MODEL, "--labels", rule)
        assert (code, out.count("\n")) == (outcome.BAD_USAGE, 1), out
        assert said in out
    code, out = typed("evaluate", f"s3://{bucket}/in/", "--models", f"{MODEL},vgg91")
    assert (code, "did you mean vgg" in out) == (outcome.BAD_USAGE, True)
    code, out = typed("evaluate", f"s3://{bucket}/in/", "--models", " , ")
    assert (code, "name the models" in out) == (outcome.BAD_USAGE, True)
    weights = f"s3://{bucket}/one.weights.h5"
    code, out = typed("evaluate", f"s3://{bucket}/in/", "--models", f"vgg19,{MODEL}", "--weights", weights)
    assert (code, "has the weights of one model" in out) == (outcome.BAD_USAGE, True)
    assert not [found for page in obstore.list(store, "pixelherd-results/") for found in page]


def test_real_photographs_are_recognised(worker, typed, store, bucket):
    directory = os.environ.get(PHOTOGRAPHS)
    if not directory:
        pytest.skip(f"{PHOTOGRAPHS} names no directory of labelled photographs")
    files = sorted(Path(directory).glob("n*_*.JPEG"))
    for file in files:
        obstore.put(store, f"labelled/{file.name}", file.read_bytes())
    worker()
    words = ("evaluate", f"s3://{bucket}/labelled/", "--models", MODEL, "--labels", "{label}_*.JPEG", "--json")
    code, out = typed(*words)
    assert code == outcome.DONE, out
    (found,) = json.loads(out)["models"]
    assert found["top1"]["images"] == len(files)
    assert found["top1"]["value"] >= 0.85
    assert found["top5"]["value"] >= 0.95
