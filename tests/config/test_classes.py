"""What a person calls a class: an id, a name or a number; what is none is a sentence."""

import pytest

from config.classes import ClassIndex, Label, imagenet_labels
from config.errors import UsageError

IMAGENET = ClassIndex(imagenet_labels())
DIGITS = ClassIndex([Label("nine", "9"), Label("eight", "8"), Label("2", "seven")])


@pytest.mark.parametrize("text", ["n01443537", "goldfish", "Goldfish", " goldfish ", "1"])
def test_a_class_goes_by_id_name_or_number(text):
    assert IMAGENET.find(text) == IMAGENET.check(text) == 1


@pytest.mark.parametrize("text", ["great_white_shark", "great white shark", "Great-White  Shark"])
def test_case_hyphens_and_spaces_do_not_matter(text):
    assert IMAGENET.find(text) == 2


def test_ids_go_before_names_and_names_before_numbers():
    assert [DIGITS.find(text) for text in ("2", "9", "8", "1", "0", "3")] == [2, 0, 1, 1, 0, None]


def test_every_id_and_all_names_but_two_are_found():
    for number, label in enumerate(imagenet_labels()):
        assert IMAGENET.find(label.class_id) == IMAGENET.find(str(number)) == number
        assert IMAGENET.find(label.class_name) in (number, None)
    assert [label.class_name for label in imagenet_labels() if IMAGENET.find(label.class_name) is None] == [
        "crane",
        "crane",
        "maillot",
        "maillot",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CARDIGAN", "names 2 classes: write n02113186 and n02963159"),
        ("crane", "'crane' names 2 classes: write n02012849 and n03126707"),
        ("golfish", "did you mean goldfish?"),
        ("n0144353", r"did you mean n0144"),
        ("1000", "a number from 0 to 999"),
        ("-1", "names no class"),
        ("٣", "names no class"),
        ("", "names no class"),
        ("zzzzzzzz", "write a class's id or name, such as n01440764 or tench"),
    ],
)
def test_what_is_no_class_is_one_line(text, words):
    with pytest.raises(UsageError, match=words) as found:
        IMAGENET.check(text)
    assert "\n" not in str(found.value)
    assert IMAGENET.find(text) is None
