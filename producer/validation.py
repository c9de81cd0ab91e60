"""Validation: from a training's prefix of validation images to a listing in which they come behind the others."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from config.errors import UsageError
from config.settings import Settings
from config.training import TrainingOptions
from producer.labels import LabelRule, parse_labels
from producer.lister import Listing, open_listing
from producer.pages import ListedKey
from producer.source import GlobSource, PrefixSource, Source, parse_source


@dataclass(frozen=True, slots=True)
class Validation:
    """The images that validate, and how they get their labels."""

    source: PrefixSource
    labels: LabelRule

    def holds(self, key: str) -> bool:
        return key.startswith(self.source.prefix)


def find_validation(training: TrainingOptions | None, source: Source, labels: str | None) -> Validation | None:
    """What is to be listed behind a source; None where a share of it validates, or where it names its keys itself."""
    if training is None or isinstance(training.validation, float) or not isinstance(source, PrefixSource | GlobSource):
        return None
    found = parse_source(training.validation)
    if not isinstance(found, PrefixSource) or labels is None:
        raise UsageError(f"validation {training.validation!r} is no prefix; write s3://bucket/prefix/")
    if found.bucket != source.bucket:
        raise UsageError(f"{training.validation} lies in another bucket than {source.text}; copy it there")
    return Validation(found, parse_labels(labels, found))


def with_validation(listing: Listing, validation: Validation | None, settings: Settings, output: str | None) -> Listing:
    """The listing, and behind it what validates, each key once."""
    if validation is None:
        return listing
    return replace(listing, keys=_chained(listing, validation, settings, output))


def list_validation(
    validation: Validation, settings: Settings, output: str | None, after: str | None = None
) -> Iterator[ListedKey]:
    """The keys that validate, or those behind one of them."""
    return open_listing(validation.source, settings, output, after, validation.labels).keys


def _chained(listing: Listing, validation: Validation, settings: Settings, output: str | None) -> Iterator[ListedKey]:
    yield from (listed for listed in listing.keys if not validation.holds(listed.key))
    yield from list_validation(validation, settings, output)
