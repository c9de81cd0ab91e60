"""Fine-tuning on real servers: from labelled images to a model that classifies, whatever dies meanwhile."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import obstore
import pyarrow.parquet as pq
import pytest
from celery import Celery
from obstore.store import S3Store

import producer
import producer.reconcile
from benchmarks.herd import Herd
from config.clients import make_redis, make_s3, make_store
from config.own_model import OwnModel
from config.results import Tally
from config.steps import first_step
from config.trained import TrainingAddress
from producer.enqueuer import Enqueuer
from producer.page import make_page
from tests.integration.herds import hands, serving, wait_until
from tests.kinds import KINDS, plant

#: Seconds for a whole run, on a machine that does other things too.
PATIENCE_S = 400.0

#: Seconds of one answer of S3 where an epoch is to take long.
SLOW_S = 1.0


@pytest.fixture(scope="module")
def herd(cache_dir: Path) -> Iterator[Herd]:
    """One worker for all tests: it loads TensorFlow once."""
    with serving(cache_dir, visibility_timeout_s=6, fetch_threads=1) as found:
        found.add_worker()
        yield found


@pytest.fixture
def bucket(herd: Herd) -> str:
    """The name of a new, empty bucket, and a queue with nothing in it."""
    herd.s3_proxy.delay_s = 0.0
    name = f"b-{secrets.token_hex(4)}"
    with closing(make_s3(herd.settings)) as s3:
        s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(herd: Herd, bucket: str) -> S3Store:
    return make_store(herd.settings, bucket)


def table(store: S3Store, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(BytesIO(bytes(obstore.get(store, key).bytes()))).to_pylist()
    return rows


def trained(herd: Herd, run: producer.Run) -> Counter[str]:
    """How often each epoch of a run was trained to its end, as the worker's log has it."""
    said = re.findall(rf"workers\.training chunk=epoch-(\S+) run={run.run_id} images=", herd.logs())
    return Counter(said)


def in_hand(herd: Herd) -> tuple[str, ...]:
    """The epoch that a process has in hand, and which one; nothing where none has."""
    held = {name.removeprefix("epoch-"): holder for name, (holder, _) in hands(herd).items() if "epoch-" in name}
    return next(iter(held.items()), ())


def epochs(run: producer.Run) -> list[tuple[int, int]]:
    return [(row["phase"], row["epoch"]) for row in run.history().to_pylist()]


def test_a_head_and_a_group_learn_three_kinds_and_leave_a_model_that_classifies(
    herd: Herd, store: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant(store, "train/", 14)
    obstore.put(store, "train/discs/torn.jpg", b"\xff\xd8\xff")
    obstore.put(store, "train/noise/empty.jpg", b"")
    run = producer.submit(
        "fine_tune",
        f"s3://{bucket}/train/",
        settings=herd.settings,
        unfreeze="head_conv,head_bn",
        epochs="6,1",
        validation=0.25,
        augment="flip,crop,color",
        training_batch=8,
    )
    status = run.wait(timeout_s=PATIENCE_S)
    assert status.phase is producer.Phase.DONE, status.reason
    assert status.counts == Counter(ok=len(planted), undecodable=1, empty=1)
    assert status.training is not None
    summary = status.training.summary
    assert summary is not None
    assert summary.classes == tuple(sorted(KINDS))
    assert summary.val_accuracy >= 0.9
    assert epochs(run) == [*((1, number) for number in range(1, 7)), (2, 1)]
    place = TrainingAddress(run.address)
    own = OwnModel.from_json(bytes(obstore.get(store, place.model_json_key).bytes()))
    assert [label.class_id for label in own.labels] == sorted(KINDS)
    uses = Counter(row["use"] for row in table(store, place.images_key))
    assert uses == {use.value: count for use, count in summary.counts.items()}
    assert uses["left_out"] == 2
    learnt = {row["name"]: row["trained_in"] for row in table(store, place.layers_key) if row["trained_in"]}
    assert learnt == {"head_conv": "groups", "head_bn": "groups", "predictions": "head,groups"}
    assert "val_accuracy" in run.report().to_text()
    assert "<svg" in make_page(run.report())

    # The model classifies what it has never seen, and is evaluated, under its own address.
    fresh = plant(store, "new/", 4, first=100)
    model = f"s3://{bucket}/{place.model_key}"
    rows = producer.classify([f"s3://{bucket}/{key}" for key in fresh], settings=herd.settings, model=model)
    assert sum(row["class_id"] == fresh[row["key"]] for row in rows.to_pylist()) >= 0.9 * len(fresh)
    evaluated = producer.submit("evaluate", f"s3://{bucket}/new/", settings=herd.settings, model=model)
    tally = evaluated.wait(timeout_s=PATIENCE_S).tally
    assert tally[Tally.RANKED] == len(fresh)
    assert tally[Tally.TOP1] >= 0.9 * len(fresh)

    # An epoch that is delivered again is not trained again; whoever watches sends what is lost.
    before = trained(herd, run)
    for key in (place.done_key, place.epoch_key("2-0001")):
        obstore.delete(store, key)
    monkeypatch.setattr(producer.reconcile, "LOOK_INTERVAL_S", 0.5)
    monkeypatch.setattr(producer.reconcile, "SURE_S", 1.0)
    again = producer.open_run(str(run.address), settings=herd.settings)
    assert again.status().phase is producer.Phase.TRAINING
    assert again.wait(timeout_s=PATIENCE_S).phase is producer.Phase.DONE
    assert trained(herd, run) == before == dict.fromkeys([f"1-{number:04d}" for number in range(1, 7)] + ["2-0001"], 1)


def test_a_killed_process_costs_the_epoch_in_its_hand_and_a_cancelled_training_goes_on(
    herd: Herd, store: S3Store, bucket: str
) -> None:
    plant(store, "train/", 8)
    run = producer.submit("fine_tune", f"s3://{bucket}/train/", settings=herd.settings, epochs=4)
    try:
        wait_until(lambda: (found := run.status().training) and found.done, "the first epoch", herd)
        herd.s3_proxy.delay_s = SLOW_S
        wait_until(lambda: in_hand(herd), "another epoch in hand", herd)
        epoch, holder = in_hand(herd)
        os.kill(int(holder.split("/")[1].partition("-")[0]), signal.SIGKILL)
        wait_until(
            lambda: in_hand(herd)[:1] == (epoch,) and in_hand(herd)[1] != holder, "another process with it", herd
        )
        assert hands(herd)[f"epoch-{epoch}"][1] == 1
        run.cancel()
    finally:
        herd.s3_proxy.delay_s = 0.0
    # A late copy of the first epoch is delivered meanwhile.
    with Enqueuer(herd.settings, herd.settings.queue, print, Event()) as enqueuer:
        enqueuer.send([first_step(run.record.job, bucket, 24)])
    assert run.wait(timeout_s=PATIENCE_S).phase is producer.Phase.CANCELLED
    with make_redis(herd.settings) as client:
        wait_until(lambda: not client.llen(herd.settings.queue) + client.hlen("unacked"), "an empty queue", herd)
    status = run.resume(even_cancelled=True).wait(timeout_s=PATIENCE_S)
    assert status.phase is producer.Phase.DONE, status.reason
    assert epochs(run) == [(1, number) for number in range(1, 5)]
    assert trained(herd, run) == {f"1-{number:04d}": 1 for number in range(1, 5)}


def test_an_untrained_inception_goes_through_the_same_from_the_command(herd: Herd, store: S3Store, bucket: str) -> None:
    plant(store, "photos/train/", 4)
    plant(store, "photos/held-out/", 2, first=50)
    words = ["submit", "fine_tune", f"s3://{bucket}/photos/train/", "--model", "inception_v3", "--weights", "random"]
    words += ["--input-shape", "75x75", "--classes-from", "folder", "--unfreeze", "mixed9,mixed10", "--epochs", "1,1"]
    words += ["--validation", f"s3://{bucket}/photos/held-out/", "--json"]
    command = [sys.executable, "-m", "producer.cli", *words]
    env = {**os.environ, "PIXELHERD_CONFIG": str(herd.config)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["phase"] == "done"
    counts = said["training"]["summary"]["counts"]
    assert counts == {"train": 12, "validate": 6}
    assert [(one["phase"], one["epoch"]) for one in said["training"]["done"]] == [(1, 1), (2, 1)]
    run = producer.open_run(said["address"], settings=herd.settings)
    part = run.results(["features_pooled", "features_frozen"])
    assert [part.schema.field(name).type.shape for name in part.column_names] == [[2048], [1, 1, 1280]]
    layers = {row["name"]: row["trained_in"] for row in table(store, TrainingAddress(run.address).layers_key)}
    assert layers["conv2d_80"] == "groups"
    assert layers["conv2d_70"] is None


def test_a_sender_that_has_only_celery_trains(herd: Herd, store: S3Store, bucket: str) -> None:
    planted = plant(store, "in/", 4)
    job = {
        "run_id": "mine-1",
        "mode": "fine_tune",
        "model": "efficientnet_lite0",
        "output": f"s3://{bucket}/results/",
        "training": {"epochs": [1, 0]},
    }
    app = Celery(broker=herd.settings.broker_url.get_secret_value())
    app.conf.task_create_missing_queues = True
    chunk = {"job": job, "bucket": bucket, "keys": list(planted), "labels": list(planted.values())}
    step = {"job": job, "bucket": bucket, "images": len(planted), "phase": 1, "number": 1}
    with closing(app):
        app.send_task("pixelherd.train", kwargs={"step": step}, queue=herd.settings.queue)
        app.send_task("pixelherd.fine_tune", kwargs={"chunk": chunk}, queue=herd.settings.queue)

    def models() -> list[str]:
        return [found["path"] for page in obstore.list(store, "results/mine-1/training/") for found in page]

    wait_until(lambda: "results/mine-1/training/done.json" in models(), "a model", herd)
    assert obstore.head(store, "results/mine-1/model.keras")["size"] > 0


def test_what_cannot_be_learnt_is_refused_or_recorded(herd: Herd, store: S3Store, bucket: str) -> None:
    plant(store, "train/", 2)

    def refused(**options: Any) -> str:
        with pytest.raises(producer.UsageError) as error:
            producer.submit("fine_tune", f"s3://{bucket}/train/", settings=herd.settings, **options)
        return str(error.value)

    assert "did you mean block7a_" in refused(unfreeze="block7a_expand_cnv")
    assert "nothing to train" in refused(unfreeze="head_relu")
    assert "replaces" in refused(unfreeze="predictions")
    assert "did you mean flip" in refused(augment="flipp", unfreeze="head_conv")
    assert "write 5 or 5,10" in refused(epochs="many")
    assert "bucket" in refused(validation="s3://elsewhere/val/")
    one_class = refused(labels="pattern:(?P<label>train)/")
    assert "two classes at least" in one_class
    assert "all 6 images are labelled 'train'" in one_class
    obstore.put(store, "train/alone/1.jpg", b"")
    assert "class 'alone' has 1 image" in refused()
    obstore.put(store, "train/alone/2.jpg", b"no image")
    run = producer.submit("fine_tune", f"s3://{bucket}/train/", settings=herd.settings)
    status = run.wait(timeout_s=PATIENCE_S)
    assert status.phase is producer.Phase.FAILED
    assert "class 'alone' has 0 images that can be read" in (status.reason or "")
