"""The page of a run: every section, no stranger's text as markup, nothing from outside, pictures of any size."""

import re
from functools import cache
from html.parser import HTMLParser

import pytest

from config.messages import Mode
from producer.markup import text
from producer.page import make_page
from producer.pictures import MOST_CLASSES, confusion_matrix, drawn_classes
from producer.status import Phase
from tests.producer.pages import labelled_rows, report_of

#: Elements that have no end.
VOID = {"meta", "br", "img"}


class Read(HTMLParser):
    """What a browser makes of a page: its elements with attributes, its text, and whether each element ends."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def names(self):
        return [tag for tag, _ in self.elements]


def read(report):
    found = Read(make_page(report))
    assert found.open == []
    return found


@cache
def page_of(kind):
    """Drawn once: pictures take a second."""
    return make_page({"evaluate": EVALUATED, "classify": CLASSIFIED}[kind])


EVALUATED = report_of(Mode.EVALUATE, labelled_rows(3, 300))
CLASSIFIED = report_of(Mode.CLASSIFY, labelled_rows(60, 900).drop_columns(["label", "rank"]))


@pytest.mark.parametrize("kind", ["evaluate", "classify"])
def test_a_hostile_key_is_text(kind):
    page = page_of(kind)
    found = Read(page)
    assert found.open == []
    assert "script" not in found.names()
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in found.text
    assert "\\u202egpj.exe\\x00\\n.jpg" in found.text
    assert not re.search("[\x00\u202e]", page)


@pytest.mark.parametrize("kind", ["evaluate", "classify"])
def test_nothing_comes_from_outside(kind):
    page = page_of(kind)
    (policy,) = [
        attributes["content"] for tag, attributes in Read(page).elements if tag == "meta" and "http-equiv" in attributes
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    for tag, attributes in Read(page).elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href") and value:
                assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
    assert not re.search(r"@import|url\((?!#)", page)


def test_an_evaluation_tells_all_that_it_counted():
    found = Read(page_of("evaluate"))
    for title in ("Accuracy", "Confusions", "Calibration", "Accuracy by class", "Errors", "What was asked"):
        assert title in found.text
    assert EVALUATED.evaluation is not None
    top1 = EVALUATED.evaluation.top1
    assert top1.value is not None
    assert f"{100 * top1.value:.1f} %" in found.text
    assert "published 71.3 %" in found.text
    assert "Left out: 1 image with a label and an error (1 undecodable)" in found.text
    assert "Left out: 1 image without a label" in found.text
    pictures = [attributes for tag, attributes in found.elements if tag == "svg"]
    assert [attributes["role"] for attributes in pictures] == ["img", "img"]
    matrix, diagram = (attributes["aria-label"] or "" for attributes in pictures)
    assert matrix.startswith("Confusion matrix of 3 classes. Most frequent: kind")
    assert diagram.startswith("Reliability diagram: scores")


def test_pictures_take_the_page_s_colour_and_share_no_names():
    pictures = re.findall(r"<svg .*?</svg>", page_of("evaluate"), re.DOTALL)
    for one in pictures:
        assert "currentColor" in one
        assert "#010203" not in one
        assert "<text" in one
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', one))
        assert used <= set(re.findall(r'\bid="([^"]+)"', one))
    matrix, diagram = (set(re.findall(r'\bid="([^"]+)"', one)) for one in pictures)
    assert not matrix & diagram


@pytest.mark.parametrize(("classes", "drawn"), [(3, 3), (MOST_CLASSES, MOST_CLASSES), (1_000, MOST_CLASSES)])
def test_a_confusion_matrix_can_be_read_whatever_its_size(classes, drawn):
    report = report_of(Mode.EVALUATE, labelled_rows(classes, 5_000))
    found = report.evaluation
    assert found is not None
    chosen = drawn_classes(found)
    assert len(chosen) == drawn
    matrix, others = confusion_matrix(found, chosen)
    assert matrix.shape == (drawn, drawn + others)
    assert others == (classes > drawn)
    assert matrix.sum() == sum(one.top1.images for one in found.classes if one.class_id in chosen)
    for number, class_id in enumerate(chosen):
        assert matrix[number, number] == found.pairs[class_id, class_id]
    said = "the 25 in the most frequent confusions, of " if classes > drawn else f"Its classes are all {classes} that"
    assert said in read(report).text


def test_classes_of_a_classification_have_bars():
    found = Read(page_of("classify"))
    assert "Counted over all images. The 35 other classes are not shown." in found.text
    assert "svg" not in found.names()


def test_random_weights_are_said_first_and_in_red():
    page = make_page(report_of(Mode.CLASSIFY, labelled_rows(3, 9).drop_columns(["label", "rank"]), weights="random"))
    assert page.index('class="alert" role="alert">RANDOM WEIGHTS') < page.index("<section>")
    assert "RANDOM WEIGHTS" not in page_of("classify")


def test_a_run_that_failed_says_why_and_what_to_do():
    rows = labelled_rows(3, 9).drop_columns(["label", "rank"])
    found = read(report_of(Mode.CLASSIFY, rows, phase=Phase.FAILED, chunks_failed=12, failed=192, reason="no <space>"))
    assert "A worker stopped the run: no <space>." in found.text
    assert "12 chunks were given up. `pixelherd resume 20261122-103000-x-3fa2` tries again." in found.text
    assert "<u>throttled</u>" in found.text


def test_a_run_without_a_row_has_a_page():
    rows = labelled_rows(3, 9).slice(0, 0)
    found = read(report_of(Mode.EVALUATE, rows, started_at=None, ended_at=None, images_per_s=None, seconds={}))
    assert "no images" not in found.text
    assert "none" in found.text


def test_no_character_is_unseen():
    assert text("a\u200bb\ud800\x1b[31m<") == "a\\u200bb\\ud800\\x1b[31m&lt;"
    assert text("日本 é ' \"") == "日本 é &#x27; &quot;"
