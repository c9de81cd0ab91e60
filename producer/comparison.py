"""Comparison: from labelled images and some models to one run for each, and one table of accuracy, speed and cost."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from typing import Any, Self, Unpack

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from config.errors import UsageError
from config.messages import Mode
from config.settings import Settings, read_settings
from producer.accuracy import Share, shares_of
from producer.client import Run, start
from producer.enqueuer import OnEvent
from producer.report import RunReport, left_out
from producer.request import Options, make_request
from producer.tables import make_console

#: In a weights URI it stands for each model's name.
MODEL_PLACE = "{model}"

SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class Price:
    """What one machine costs for an hour, in US dollars."""

    per_hour: float
    source: str = "as given"


#: Where nobody says what a machine costs.
DEFAULT_PRICE = Price(
    0.34, "a c5.2xlarge, 8 vCPUs, on demand in us-east-1, by AWS's Auto Scaling guide, read 2026-11-22"
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One model's line of the table."""

    report: RunReport
    price: Price

    @property
    def model(self) -> str:
        return self.report.record.job.model

    @property
    def shares(self) -> tuple[Share, Share]:
        """Top-1 and top-5, from the counts of the chunks' summaries."""
        return shares_of(self.report.status.tally)

    @property
    def dollars_per_million(self) -> float | None:
        """For a million images at the speed of this run, on as many machines; None before there is a speed."""
        if not self.images_per_s:
            return None
        per_s = self.price.per_hour * self.report.status.machines / SECONDS_PER_HOUR
        return 1e6 * per_s / self.images_per_s

    @property
    def images_per_s(self) -> float | None:
        """Of networks that are loaded, as in a run of a million; of the whole run where that is not known."""
        return self.report.status.warm_images_per_s or self.report.status.images_per_s

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        status, (top1, top5) = self.report.status, self.shares
        found = self.report.evaluation
        return {
            "model": self.model,
            "run": status.address,
            "phase": status.phase.value,
            "top1": top1.to_json(),
            "top5": top5.to_json(),
            "published_top1": self.report.spec.top1,
            "published_top5": self.report.spec.top5,
            "images_per_s": self.images_per_s,
            "machines": status.machines,
            "dollars_per_million": self.dollars_per_million,
            "calibration_error": found.calibration_error if found else None,
            "left_out": list(left_out(found)) if found else [],
            "warning": self.report.warning,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table: a line for each model, in the order asked."""

    reports: tuple[RunReport, ...]
    price: Price = DEFAULT_PRICE

    def at(self, price_per_hour: float) -> Self:
        """The same where one machine costs so many dollars an hour."""
        return replace(self, price=Price(price_per_hour))

    @property
    def lines(self) -> list[Compared]:
        """A line for each model."""
        return [Compared(report, self.price) for report in self.reports]

    def to_json(self) -> str:
        """All of it, for a program."""
        lines = [line.to_json() for line in self.lines]
        return json.dumps({"price": asdict(self.price), "models": lines}, indent=1)

    def to_table(self) -> Table:
        """All of it, for a person."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column("model", no_wrap=True)
        for name in ("top-1 % (95 %)", "published", "top-5 % (95 %)", "published", "images/s", "$/million"):
            table.add_column(name, justify="right", no_wrap=True)
        for line in self.lines:
            (top1, top5), spec = line.shares, line.report.spec
            table.add_row(
                Text(line.model, "red" if line.report.warning else ""),
                _share(top1),
                _figure(spec.top1),
                _share(top5),
                _figure(spec.top5),
                _figure(line.images_per_s),
                _figure(line.dollars_per_million, 2),
            )
        return table

    def print(self) -> None:
        """Table and notes on stdout."""
        console = make_console(sys.stdout)
        console.print(self.to_table())
        for note in self.notes():
            console.print(Text(note, "bold red" if "RANDOM" in note else ""), soft_wrap=True)

    def notes(self) -> list[str]:
        """What a person must know to read the table."""
        machines = max((line.report.status.machines for line in self.lines), default=0)
        return [
            "in brackets: 95 % interval (Wilson 1927); published: ImageNet validation, `pixelherd models`",
            "images/s: of all machines together, without each process's first chunk, in which it loads the network",
            f"$: at ${self.price.per_hour:g} an hour of a machine ({self.price.source}); machines: {machines:,}",
            *dict.fromkeys(
                f"{line.model}: {said}"
                for line in self.lines
                if line.report.evaluation
                for said in left_out(line.report.evaluation)
            ),
            *(f"{line.model}: {line.report.warning}" for line in self.lines if line.report.warning),
            *(f"{line.model}: {line.report.status.address}/report.html" for line in self.lines),
        ]


def evaluate(
    source: str | PathLike[str] | Sequence[str],
    models: Sequence[str],
    *,
    settings: Settings | None = None,
    on_event: OnEvent | None = None,
    progress: bool = False,
    **options: Unpack[Options],
) -> Comparison:
    """Evaluate models on labelled images, one run after the other so that each has its own speed, and wait.

    All that can be refused without a server is refused before the first run begins. In `weights`, {model} stands
    for each model's name. `at` of what is returned takes the price of your machines.
    """
    settings = settings or read_settings()
    requests = [
        make_request(Mode.EVALUATE, source, settings, settings.queue, _options_of(model, models, options))
        for model in _different(models)
    ]
    reports = []
    for request in requests:
        run: Run = start(request, settings, on_event)
        run.wait(progress=progress, page=False)
        report = run.report(survey=True)
        run.write_page(report)
        reports.append(report)
    return Comparison(tuple(reports))


def _different(models: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys([models] if isinstance(models, str) else models))
    if not found:
        raise UsageError("name the models to evaluate; `pixelherd models` lists them")
    return found


def _options_of(model: str, models: Sequence[str], options: Options) -> Options:
    weights = options.get("weights")
    if weights and "://" in weights and MODEL_PLACE not in weights and len(models) > 1:
        raise UsageError(f"{weights} has the weights of one model; write {MODEL_PLACE} where their names differ")
    return {**options, "model": model, "weights": weights and weights.replace(MODEL_PLACE, model)}


def _share(share: Share) -> str:
    if share.value is None:
        return "no images"
    low, high = share.interval
    return f"{100 * share.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _figure(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
