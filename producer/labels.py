"""Labels: from a person's rule (a folder, a pattern, a manifest's column) to the label of each listed key.

A label is text: what class it means is for the mode to say. A key that the rule says nothing of has none.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from config.classes import ClassIndex, Label
from config.errors import SourceError, UsageError
from config.messages import MAX_LABEL
from producer.pages import ListedKey
from producer.source import GlobSource, ManifestSource, PrefixSource, Source, translate_glob

#: The rule of a person who names none, and the column of one who names none.
FOLDER = "folder"
DEFAULT_COLUMN = "label"

#: Where the label stands in a key's pattern: as a group of a regular expression, or in the middle of a glob.
GROUP = "label"
PLACE = "{label}"

HOW = f"write folder, pattern:REGEX with (?P<{GROUP}>…), '{PLACE}_*.jpg', or column:NAME"


@dataclass(frozen=True, slots=True)
class LabelRule:
    """How keys get their labels; `text` is what the person gave, and what job.json remembers.

    `column` is the manifest's column that holds them; where it is None, they are taken from the key.
    """

    text: str
    label_of: Callable[[ListedKey], str | None]
    column: str | None = None

    def apply(self, keys: Iterator[ListedKey]) -> Iterator[ListedKey]:
        """The keys, each with its label."""
        for listed in keys:
            yield listed._replace(label=_checked(self.label_of(listed), listed))


def parse_labels(text: str, source: Source) -> LabelRule:
    """The rule that a person means for this source; UsageError says in one line why it can be none."""
    kind, _, rest = text.partition(":")
    if text == FOLDER:
        return _folder_rule(source)
    if kind == "column":
        return _column_rule(text, rest, source)
    if kind == "pattern" or PLACE in text:
        pattern = _compile(rest if kind == "pattern" else text)
        return LabelRule(text, lambda listed: _found(pattern, listed.key))
    near = difflib.get_close_matches(kind, [FOLDER, "pattern", "column"], n=1)
    offer = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"labels cannot come from {text!r}: {offer}{HOW}")


def check_labelled(first: pa.Table, rule: LabelRule, source: Source) -> None:
    """Refuse a source whose first keys (a manifest part) all lack a label: the rule does not fit them."""
    if first["label"].null_count == first.num_rows:
        key = first["key"][0].as_py()
        raise SourceError(
            f"the keys of {source.text} have no label by {rule.text!r} ({first.num_rows:,} looked at, "
            f"such as {key!r}); {HOW}"
        )


def check_classes(first: pa.Table, classes: Sequence[Label]) -> None:
    """Refuse labels that name none of the model's classes, as far as the first manifest part has them.

    What comes later has the label in its row, and no rank.
    """
    index = ClassIndex(classes)
    for text in first["label"].unique().drop_null().to_pylist():
        index.check(text)


def _folder_rule(source: Source) -> LabelRule:
    """The first folder below a prefix, as Keras and torchvision have it; else the folder that a key lies in."""
    if not isinstance(source, PrefixSource | GlobSource):
        return LabelRule(FOLDER, lambda listed: listed.key.rpartition("/")[0].rpartition("/")[2] or None)
    base = source.prefix
    if isinstance(source, GlobSource) or not base or base.endswith("/"):
        base = base.rpartition("/")[0] + "/" if "/" in base else ""
    else:
        base += "/"  # what lies in the folder of that name

    def label_of(listed: ListedKey) -> str | None:
        folder, slash, _ = listed.key.removeprefix(base).partition("/")
        return folder if slash and listed.key.startswith(base) and folder else None

    return LabelRule(FOLDER, label_of)


def _column_rule(text: str, name: str, source: Source) -> LabelRule:
    if not isinstance(source, ManifestSource):
        raise UsageError(f"{source.text} has no columns to take labels from; {HOW.partition(', or')[0]}")
    if source.text.lower().removesuffix(".gz").endswith(".txt"):
        raise UsageError(f"{source.text} is plain text without columns; a .csv, .jsonl or .parquet file has them")
    return LabelRule(text, lambda listed: listed.label, column=name or DEFAULT_COLUMN)


def _compile(text: str) -> re.Pattern[str]:
    """A regular expression that is searched in the key, or a glob whose segments are the key's last ones."""
    regex = text
    if PLACE in text:
        before, _, after = text.partition(PLACE)
        if PLACE in after:
            raise UsageError(f"{text!r} says {PLACE} twice")
        regex = rf"(?:^|/){translate_glob(before)}(?P<{GROUP}>[^/]+?){translate_glob(after)}$"
    try:
        pattern = re.compile(regex, re.DOTALL)
    except re.error as error:
        raise UsageError(f"{text!r} is no pattern for labels: {error}") from error
    if GROUP not in pattern.groupindex:
        raise UsageError(f"the pattern {text!r} does not say where the label is; {HOW}")
    return pattern


def _found(pattern: re.Pattern[str], key: str) -> str | None:
    found = pattern.search(key)
    return found[GROUP] or None if found else None


def _checked(label: str | None, listed: ListedKey) -> str | None:
    if label is not None and len(label) > MAX_LABEL:
        raise SourceError(f"the label of {listed.key[:80]!r} has {len(label)} characters; {MAX_LABEL} are the most")
    return label
