"""Pictures: from an evaluation to SVG for its report, by matplotlib's objects, without pyplot and its global state.

Lines and text take the colour of the page around them, so that a picture is legible in the dark, too.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from config.trained import EpochRecord
from producer.accuracy import Evaluation
from producer.markup import Html, text

#: Stands for the page's own colour until the picture is SVG; no map of colours has it.
INK = "#010203"

BLUE, RED = "#1f6feb", "#d1495b"

#: Classes of a confusion matrix whose names can be read; of more, those that are confused most are drawn.
MOST_CLASSES = 25

#: Classes up to which each field says its number.
MOST_NUMBERED = 12

#: Characters of a class's name beside a matrix.
NAME_LENGTH = 24

OTHERS = "other classes"


def make_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty picture, in inches, in the page's colour."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(drawn)
    axes = drawn.add_subplot()
    drawn.patch.set_visible(False)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(INK)
    return drawn, axes


def to_svg(drawn: Figure, alt: str) -> Html:
    """The picture for a page, with words for who does not see it."""
    body = io.StringIO()
    # The same picture is the same text, and two pictures of one page do not share the names of their parts.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        drawn.savefig(
            body, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = body.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    name = hashlib.sha256(alt.encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    return Html(svg.replace("<svg ", f'<svg role="img" aria-label="{text(alt)}" ', 1))


def draw_reliability(found: Evaluation) -> Html:
    """How often the best class is right, over how sure the network is of it, and where its images lie."""
    drawn, axes = make_figure(6.4, 4.2)
    filled = [one for one in found.bins if one.images]
    width = found.bins[0].high - found.bins[0].low
    axes.bar(
        [one.low for one in filled], [one.accuracy for one in filled], width, align="edge", color=BLUE, edgecolor=INK
    )
    axes.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1, label="as sure as it is right")
    axes.plot(
        [one.confidence for one in filled],
        [one.accuracy for one in filled],
        "o",
        color=RED,
        label="mean score of a bin",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score of the best class", ylabel="share that is right")
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, labelcolor=INK)
    error = found.calibration_error
    alt = "Reliability diagram: " + "; ".join(
        f"scores {one.low:.2f} to {one.high:.2f}: {one.images} images, {100 * one.accuracy:.0f} % right"
        for one in filled
    )
    return to_svg(drawn, f"{alt}; expected calibration error {error:.3f}" if error is not None else alt)


def drawn_classes(found: Evaluation) -> list[str]:
    """The classes of the confusion matrix: all, or those of the most frequent confusions, in the order of ids."""
    seen = {label for label, _ in found.pairs} | {best for _, best in found.pairs}
    if len(seen) <= MOST_CLASSES:
        return sorted(seen)
    chosen: dict[str, None] = {}
    for one in found.confusions:
        for class_id in (one.label, one.taken_for):
            if len(chosen) < MOST_CLASSES:
                chosen[class_id] = None
    return sorted(chosen or sorted(seen)[:MOST_CLASSES])


def draw_confusions(found: Evaluation, classes: Sequence[str]) -> Html:
    """What the images of each label were taken for: a row for each label, shares of its images."""
    matrix, others = confusion_matrix(found, classes)
    names = [found.name(class_id)[:NAME_LENGTH] for class_id in classes]
    columns = [*names, OTHERS] if others else names
    side = 0.34 * len(columns) + 2.6
    drawn, axes = make_figure(side + 0.6, max(2.8, side - 0.6))
    images = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, images, out=np.zeros(matrix.shape), where=images > 0)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="taken for", ylabel="label")
    if len(columns) <= MOST_NUMBERED:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "#10233f"
                axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=colour)
    bar = drawn.colorbar(shown, ax=axes, shrink=0.7)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.set_label("share of the label's images", color=INK, fontsize=9)
    bar.outline.set_edgecolor(INK)
    worst = "; ".join(
        f"{found.name(one.label)} taken for {found.name(one.taken_for)}: {one.share.hits}"
        for one in found.confusions[:5]
    )
    return to_svg(drawn, f"Confusion matrix of {len(classes)} classes. Most frequent: {worst or 'no confusion at all'}")


def confusion_matrix(
    found: Evaluation, classes: Sequence[str]
) -> tuple["np.ndarray[tuple[int, int], np.dtype[np.int64]]", bool]:
    """Images by label and best class, and whether a last column holds the best classes that are not among these."""
    place = {class_id: number for number, class_id in enumerate(classes)}
    counts: Counter[tuple[int, int]] = Counter()
    for (label, best), count in found.pairs.items():
        if label in place:
            counts[place[label], place.get(best, len(classes))] += count
    others = any(column == len(classes) for _, column in counts)
    matrix = np.zeros((len(classes), len(classes) + others), np.int64)
    for where, count in counts.items():
        matrix[where] = count
    return matrix, others


def draw_history(done: Sequence[EpochRecord]) -> Html:
    """Loss and accuracy over the epochs, of what was trained on and of what was not; a line where a phase ends."""
    drawn, axes = make_figure(6.4, 3.6)
    right = axes.twinx()
    right.tick_params(colors=INK, labelsize=9)
    right.yaxis.label.set_color(INK)
    numbers = range(1, len(done) + 1)
    for name, color, place in (("loss", RED, axes), ("accuracy", BLUE, right)):
        place.plot(numbers, [getattr(one, name) for one in done], color=color, linestyle="--", linewidth=1)
        values = [getattr(one, f"val_{name}") for one in done]
        place.plot(numbers, values, color=color, marker="o", markersize=3, label=f"val_{name}")
        place.set_ylabel(name)
    for number, (one, following) in enumerate(pairwise(done), start=1):
        if one.phase != following.phase:
            axes.axvline(number + 0.5, color=INK, linewidth=1, linestyle=":")
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.locator_params(axis="x", integer=True)
    right.set(ylim=(0, 1.02))
    for spine in right.spines.values():
        spine.set_color(INK)
    lines = [*axes.get_lines()[1:2], *right.get_lines()[1:2]]
    axes.legend(lines, ["val_loss", "val_accuracy"], frameon=False, fontsize=9, loc="center right", labelcolor=INK)
    last = done[-1]
    alt = f"Loss and accuracy of {len(done)} epochs; in the last one val_loss {last.val_loss:.3f}"
    return to_svg(drawn, f"{alt} and val_accuracy {last.val_accuracy:.3f}")
