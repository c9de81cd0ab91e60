"""The page on sizing shows what the script computes, and the script computes what a run does."""

import re

import pytest

from benchmarks.sizing import (
    GET_DOLLARS,
    INSTANCES,
    MODELS,
    PUT_DOLLARS,
    fill,
    request_dollars,
    requests,
    tables,
)
from config.models import MODELS as CATALOGUE
from tests.test_compose import ROOT

PAGE = ROOT / "docs" / "sizing.md"


def test_the_page_shows_the_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", page)) == set(tables())
    assert fill(page) == page, "run: python -m benchmarks.sizing --write docs/sizing.md"


def test_a_million_images_are_so_many_requests() -> None:
    chunks = 3_907  # of 256
    parts = 4  # of 262,144
    assert requests(1_000_000) == {
        "GET and HEAD": 1_000_000 + 3 * chunks + parts,
        "PUT": 2 * chunks + parts,
        "LIST": 1_000 + 4,
    }
    assert request_dollars(1_000_000) == pytest.approx(1_011_725 * GET_DOLLARS + (7_818 + 1_004) * PUT_DOLLARS)


def test_what_was_not_measured_has_no_speed() -> None:
    assert set(MODELS) <= set(CATALOGUE)
    unmeasured = [one for one in INSTANCES if one.speed is None]
    assert {one.name for one in unmeasured} == {"c8g.xlarge", "g5.xlarge", "g6.xlarge"}
    assert all(one.images_per_s("resnet50") is None and one.taken_as == "not measured" for one in unmeasured)
    assert not any(one.name in tables()["cost"] for one in unmeasured)
