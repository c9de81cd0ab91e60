"""Page of a training: from a RunReport's epochs to the sections of its page, with the curves of loss and accuracy."""

from collections.abc import Sequence

from config.results import RunAddress
from config.trained import EpochRecord, TrainingAddress, Use
from config.training import PHASES
from producer.markup import Cell, Html, facts, figure, section, table, tiles
from producer.progress import clock
from producer.report import RunReport
from producer.trained import TrainingStatus, best_epoch

#: Epochs that stand in the table; the rest are in history.parquet.
EPOCHS_SHOWN = 200


def show_training(report: RunReport) -> Html | None:
    """How well the images are told apart that were not trained on, epoch by epoch."""
    training = report.status.training
    if training is None:
        return None
    if training.last is None:
        return section("Training", intro="No epoch is done yet.")
    from producer.pictures import draw_history

    best = best_epoch(training)
    figures = [
        (f"{100 * training.last.val_accuracy:.1f} %", "val_accuracy", f"of {training.last.val_images:,} images"),
        (f"{len(training.done)} of {training.epochs}", "epochs", f"best: {best.name}" if best else ""),
        (clock(sum(record.seconds for record in training.done)), "in epochs", ""),
    ]
    curves = figure(draw_history(training.done), "Solid: images that validate. Dashed: images that were trained on.")
    return section("Training", tiles(figures), curves, _epochs(training.done), *_model(report, training))


def _epochs(done: Sequence[EpochRecord]) -> Html:
    names = ("phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning rate", "seconds")
    rows: list[tuple[Cell, ...]] = [
        (
            PHASES[record.phase],
            record.epoch,
            f"{record.loss:.4f}",
            f"{record.accuracy:.4f}",
            f"{record.val_loss:.4f}",
            f"{record.val_accuracy:.4f}",
            f"{record.learning_rate:g}",
            f"{record.seconds:.1f}",
        )
        for record in done[-EPOCHS_SHOWN:]
    ]
    return table("epochs", names, rows)


def _model(report: RunReport, training: TrainingStatus) -> list[Html]:
    """What the training leaves, and from what it came; nothing while it goes on."""
    summary, options = training.summary, report.record.job.training
    if summary is None or options is None:
        return []
    place = TrainingAddress(RunAddress.parse(report.status.address))
    told: list[tuple[str, object]] = [
        ("model", f"s3://{place.run.bucket}/{place.model_key}"),
        ("sha256", summary.model_sha256),
        ("classes", ", ".join(summary.classes)),
        *((use.value, f"{summary.counts.get(use, 0):,} images") for use in Use),
        ("trained layers", ", ".join(summary.trained_layers)),
        ("augmentation", ", ".join(options.augment) or "none"),
        ("seed", options.seed),
    ]
    return [facts(told)]
