"""Page: from a RunReport to one HTML file that needs no other; a section is a function, a mode a list of them."""

from collections.abc import Callable
from importlib import resources

from config.messages import Mode
from config.results import ChunkPlace
from producer.markup import Cell, Html, alert, bars, facts, joined, section, table, text, tiles
from producer.page_accuracy import show_accuracy, show_calibration, show_class_accuracies, show_confusions
from producer.page_training import show_training
from producer.progress import clock
from producer.report import RunReport

#: Classes of a histogram; the rest are a number.
CLASSES_SHOWN = 25

#: What a stage's seconds are spent with.
STAGES = {
    "fetch": "reading images from S3",
    "decode": "decoding and resizing",
    "infer": "the network",
    "starved": "the network waiting for images",
    "write": "writing rows",
    "chunk": "whole chunks, from first to last",
}

#: A part of the page about a run; None where there is nothing to say.
SectionOf = Callable[[RunReport], Html | None]


def make_page(report: RunReport) -> str:
    """The report as one HTML file."""
    status, job = report.status, report.record.job
    title = f"{job.mode.value} with {job.model}"
    sections = (show(report) for show in (*COMMON, *SECTIONS.get(job.mode, ()), *TROUBLE, ASKED))
    body = joined(
        Html(f"<header>\n<h1>{text(title)}</h1>\n<p>{text(status.run_id)}</p>\n</header>"),
        *([alert(report.warning)] if report.warning else ()),
        *(shown for shown in sections if shown is not None),
    )
    style = resources.files("producer").joinpath("templates/report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be fetched or run, whatever a key is called.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f"<title>{text(title)}: {text(status.run_id)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n<footer>Written by pixelherd from what lies under "
        f"{text(status.address)}; all times are UTC.</footer>\n</main>\n</body>\n</html>\n"
    )


# --- All modes -----------------------------------------------------------------------------------------------------


def show_outcome(report: RunReport) -> Html:
    """How it went, in a few figures."""
    status = report.status
    images = f"{status.images:,}" if status.images is not None else f"{status.listed:,} or more"
    figures = [
        (status.phase.value, "run", f"given up: {status.failed:,}" if status.failed else ""),
        (f"{status.done:,}", "images done", f"of {images}"),
        (f"{status.errors:,}", "images with an error", ""),
    ]
    if status.images_per_s:
        figures.append((f"{status.images_per_s:,.1f}", "images/s", _wall(report)))
    return tiles(figures)


def _wall(report: RunReport) -> str:
    began, ended = report.status.started_at, report.status.ended_at
    return f"in {clock((ended - began).total_seconds())}" if began and ended else ""


def show_statuses(report: RunReport) -> Html | None:
    """How the images ended, where some did not end well."""
    counts = report.status.counts
    if not report.status.errors:
        return None
    values = [(kind.value, count, f"{count:,}") for kind, count in counts.items()]
    return section("How images ended", bars("images by status", values))


def show_errors(report: RunReport) -> Html | None:
    """Images that have an error in place of a result: some of each kind."""
    if report.survey is None or not report.survey.examples:
        return None
    rows: list[tuple[Cell, ...]] = [
        (kind, key, error) for kind, examples in sorted(report.survey.examples.items()) for key, error in examples
    ]
    return section("Errors", table("the first images of each kind", ("status", "key", "error"), rows))


def show_speed(report: RunReport) -> Html | None:
    """Where the seconds of the workers went."""
    seconds = report.status.seconds
    if not seconds:
        return None
    stages = [(STAGES.get(stage, stage), spent, f"{spent:,.1f} s") for stage, spent in seconds.items()]
    intro = "Stages run side by side, so that their seconds are more than the clock's."
    return section("Speed by stage", bars("seconds, added over all workers", stages), intro=intro)


def show_failures(report: RunReport) -> Html | None:
    """Chunks that were given up, and what to do about it."""
    status = report.status
    if not status.chunks_failed and not status.reason:
        return None
    rows: list[tuple[Cell, ...]] = [
        (one.chunk_id, ChunkPlace.parse(one.chunk_id).count, one.tries, one.error) for one in report.failures
    ]
    shown = [table("the first chunks", ("chunk", "images", "tries", "error"), rows)] if rows else []
    stopped = f"A worker stopped the run: {status.reason}. " if status.reason else ""
    intro = f"{stopped}{status.chunks_failed:,} chunks were given up. `pixelherd resume {status.run_id}` tries again."
    return section("Given up", *shown, intro=intro)


def show_question(report: RunReport) -> Html:
    """What was asked for."""
    record, status, job = report.record, report.status, report.record.job
    layers = ", ".join(job.features.layers) if job.features else ""
    asked: list[tuple[str, object]] = [
        ("mode", job.mode.value),
        ("model", job.model),
        ("weights", job.weights.uri if job.weights else "the model's own"),
        ("sha256", job.weights and job.weights.sha256),
        ("layers", f"{layers} (pool {job.features.pool}, {job.features.dtype})" if job.features else None),
        ("source", f"{record.source} (bucket {record.bucket})"),
        ("labels", record.labels),
        ("results", f"{status.address}/parts/*.parquet"),
        ("engine", f"{job.engine.value}, precision {job.precision.value}"),
        ("submitted", f"{record.created_at:%Y-%m-%d %H:%M:%S}"),
        ("read", f"{status.size_bytes / 1e6:,.1f} MB in {status.chunks_done:,} chunks"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
    ]
    return section("What was asked", facts((name, value) for name, value in asked if value))


# --- classify ------------------------------------------------------------------------------------------------------


def show_classes(report: RunReport) -> Html | None:
    """The classes that most images have."""
    survey = report.survey
    if survey is None or not survey.classes:
        return None
    counted, most = survey.classes.total(), survey.classes.most_common(CLASSES_SHOWN)
    values = [
        (survey.names.get(class_id, class_id), count, f"{count:,} ({100 * count / counted:.1f} %)")
        for class_id, count in most
    ]
    of = "all images" if survey.rows >= report.status.done else f"a sample of {survey.rows:,} images"
    rest = (
        f" The {len(survey.classes) - len(most):,} other classes are not shown."
        if len(survey.classes) > len(most)
        else ""
    )
    return section("Classes", bars("images by best class", values), intro=f"Counted over {of}.{rest}")


#: What every page begins with, what a mode adds, and what every page ends with.
COMMON: tuple[SectionOf, ...] = (show_outcome,)
SECTIONS: dict[Mode, tuple[SectionOf, ...]] = {
    Mode.CLASSIFY: (show_classes,),
    Mode.EXTRACT_FEATURES: (show_classes,),
    Mode.FINE_TUNE: (show_training,),
    Mode.EVALUATE: (show_accuracy, show_confusions, show_calibration, show_class_accuracies),
}
TROUBLE: tuple[SectionOf, ...] = (show_failures, show_statuses, show_errors, show_speed)
ASKED: SectionOf = show_question
