"""The table of several models: measured beside published, and what it costs."""

import json
from io import StringIO

import pytest
from rich.console import Console

from config.messages import Mode
from config.models import MODELS
from config.results import Tally
from producer.comparison import DEFAULT_PRICE, Comparison
from tests.producer.pages import labelled_rows, report_of

#: Top-1 and top-5 on ImageNet's validation images, as keras.io/api/applications has them.
PUBLISHED = {"vgg19": (71.3, 90.0), "resnet50": (74.9, 92.1), "inception_v3": (77.9, 93.7)}

TALLY = {Tally.RANKED: 400, Tally.TOP1: 300, Tally.TOP5: 380}


def report(model, **changes):
    rows = labelled_rows(3, 400)
    return report_of(Mode.EVALUATE, rows, model=model, tally=TALLY, machines=3, warm_images_per_s=50.0, **changes)


THREE = Comparison(tuple(report(model) for model in PUBLISHED))


def test_the_catalogue_has_the_paper_s_figures():
    assert {name: (MODELS[name].top1, MODELS[name].top5) for name in PUBLISHED} == PUBLISHED


def test_each_model_is_a_line_beside_its_published_figures():
    file = StringIO()
    Console(file=file, width=200).print(THREE.to_table())
    lines = file.getvalue().splitlines()[2:]
    for line, (model, (top1, top5)) in zip(lines, PUBLISHED.items(), strict=True):
        assert line.split() == [
            *(model, "75.0", "(70.5", "to", "79.0)", str(top1)),
            *("95.0", "(92.4", "to", "96.7)", str(top5), "50.0", "5.67"),
        ]


def test_dollars_follow_from_the_price_the_machines_and_the_speed():
    each = DEFAULT_PRICE.per_hour * 3 / 3_600 / 50.0
    assert THREE.lines[0].dollars_per_million == pytest.approx(1e6 * each)
    assert THREE.at(0.68).lines[0].dollars_per_million == pytest.approx(2 * 1e6 * each)
    assert "at $0.34 an hour of a machine (a c5.2xlarge" in " ".join(THREE.notes())
    assert "at $0.68 an hour of a machine (as given)" in " ".join(THREE.at(0.68).notes())
    idle = Comparison((report("vgg19", images_per_s=None),))
    assert idle.lines[0].dollars_per_million is not None, "the warm speed is known"


def test_what_is_left_out_and_what_means_nothing_is_said():
    notes = "\n".join(Comparison((report("vgg19", weights="random"),)).notes())
    assert "vgg19: left out: 1 image with a label and an error (1 undecodable)" in notes
    assert "vgg19: RANDOM WEIGHTS" in notes
    assert "vgg19: s3://bucket/out/20261122-103000-x-3fa2/report.html" in notes


def test_a_program_reads_the_same():
    found = json.loads(THREE.to_json())
    assert [line["model"] for line in found["models"]] == list(PUBLISHED)
    line = found["models"][1]
    assert (line["top1"]["hits"], line["top1"]["images"], line["published_top5"]) == (300, 400, 92.1)
    assert (line["machines"], found["price"]["per_hour"]) == (3, 0.34)
