"""Page of an evaluation: from a RunReport's accuracies to the sections of its page, with their pictures."""

from producer.accuracy import ClassAccuracy, Share
from producer.markup import Cell, Html, Number, figure, folded, section, table, text, tiles
from producer.report import RunReport, left_out, worst_classes

#: Confusions and classes that stand open, and classes that stand at all; the rest are a number.
PAIRS_SHOWN = 20
CLASSES_SHOWN = 25
CLASS_ROWS = 1_000


def show_accuracy(report: RunReport) -> Html | None:
    """Top-1 and top-5 with their intervals, beside what was published."""
    found, spec = report.evaluation, report.spec
    if found is None:
        return None
    rows = [
        (
            _percent(share),
            f"{name} accuracy",
            f"{_interval(share)}; published {published:.1f} %" if published else _interval(share),
        )
        for name, share, published in (("top-1", found.top1, spec.top1), ("top-5", found.top5, spec.top5))
    ]
    images = (f"{found.top1.images:,}", "images with a rank", f"of {len(found.classes):,} of {spec.classes:,} classes")
    said = [Html(f"<p>{text(line[0].upper() + line[1:])}.</p>") for line in left_out(found)]
    intro = "Below each: its 95 % interval (Wilson 1927), and what was published for ImageNet's validation images."
    return section("Accuracy", tiles([*rows, images]), *said, intro=intro)


def show_confusions(report: RunReport) -> Html | None:
    """What was taken for what: the pairs, and the matrix."""
    found = report.evaluation
    if found is None or not found.classes:
        return None
    from producer.pictures import draw_confusions, drawn_classes

    classes = drawn_classes(found)
    seen = {class_id for pair in found.pairs for class_id in pair}
    are = f"the {len(classes)} in the most frequent confusions, of" if len(classes) < len(seen) else "all"
    caption = (
        f"Confusion matrix. Its classes are {are} {len(seen):,} that were a label or a best class. "
        "Rows are labels, and add up to 1."
    )
    matrix = figure(draw_confusions(found, classes), caption)
    if not found.confusions:
        return section("Confusions", matrix, intro="No image was taken for another class.")
    rows: list[tuple[Cell, ...]] = [
        (
            f"{found.name(one.label)} ({one.label})",
            f"{found.name(one.taken_for)} ({one.taken_for})",
            one.share.hits,
            _percent(one.share),
        )
        for one in found.confusions[:PAIRS_SHOWN]
    ]
    names = ("label", "taken for", "images", "share of the label's images")
    return section("Confusions", table(f"the most frequent of {len(found.confusions):,} pairs", names, rows), matrix)


def show_calibration(report: RunReport) -> Html | None:
    """Whether scores are as sure as they are right."""
    found = report.evaluation
    if found is None or not found.classes:
        return None
    if found.calibration_error is None:
        return section("Calibration", intro=f"{found.outside:,} images have a score that is no share of 1: no diagram.")
    from producer.pictures import draw_reliability

    caption = (
        f"Expected calibration error {found.calibration_error:.3f} over {len(found.bins)} bins (Guo et al. 2017): how "
        "far scores are from the share that is right. Bars below the dashed line mean that the network is too sure."
    )
    return section("Calibration", figure(draw_reliability(found), caption))


def show_class_accuracies(report: RunReport) -> Html | None:
    """How each class fared, the worst first."""
    found = report.evaluation
    if found is None or not found.classes:
        return None
    worst = worst_classes(found)
    rest = worst[CLASSES_SHOWN:CLASS_ROWS]
    shown = [_class_table(f"{min(len(worst), CLASSES_SHOWN)} of {len(worst):,} classes", worst[:CLASSES_SHOWN])]
    if rest:
        left = len(worst) - len(rest) - CLASSES_SHOWN
        more = f", and {left:,} better ones are left out" if left else ""
        shown.append(folded(f"{len(rest):,} more classes{more}", _class_table("further classes", rest)))
    return section("Accuracy by class", *shown, intro="The worst first.")


def _class_table(caption: str, classes: list[ClassAccuracy]) -> Html:
    rows: list[tuple[Cell, ...]] = [
        (one.class_name, one.class_id, one.top1.images, _percent(one.top1), _interval(one.top1), _percent(one.top5))
        for one in classes
    ]
    return table(caption, ("class", "id", "images", "top-1", "95 % interval", "top-5"), rows)


def _percent(share: Share) -> Number:
    return Number("none" if share.value is None else f"{100 * share.value:.1f} %")


def _published(percent: float | None) -> str:
    return "" if percent is None else f"; published {percent:.1f} %"


def _interval(share: Share) -> Number:
    low, high = share.interval
    return Number(f"{100 * low:.1f} to {100 * high:.1f}")
