"""Table: from what was measured to the rows that a person reads."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.alone import Alone
from benchmarks.end_to_end import EndToEnd
from benchmarks.machine import Usage
from benchmarks.memory import MemoryFigures
from benchmarks.peer import PeerFigures
from benchmarks.sweep import SweepFigures

#: What is to be reached; the share of the limit, the ratio to the peer, and the bytes of a worker for ResNet50.
GOAL_SHARE = 0.85
GOAL_RATIO = 3.5
GOAL_BYTES = 1.2e9


#: Columns of the table in a file or a pipe.
FILE_WIDTH = 120


class Row(NamedTuple):
    """A line of the table; a heading has no figure."""

    what: str
    figure: str = ""
    goal: str = ""


def rows_of_alone(alone: Alone) -> list[Row]:
    """The four stages, and the limit that follows."""
    return [
        Row(f"CPU for one image, each stage alone ({alone.engine} {alone.precision}, batches of {alone.batch_size})"),
        *(Row(f"  {stage}", _ms(spent)) for stage, spent in alone.cpu_s.items()),
        Row("  sum", _ms(alone.total_s)),
        Row("  limit = cores / sum", _rate(alone.limit)),
        Row("  engine alone on all cores", _rate(alone.model_images_per_s)),
        Row("  converting and loading the network, once for a machine", f"{alone.first_load_s:.1f} s"),
        Row("  loading it again", f"{alone.load_s:.1f} s"),
        _others(alone.usage),
    ]


def rows_of_end_to_end(measured: EndToEnd, alone: Alone) -> list[Row]:
    """The warm run against the limit, and the cold one."""
    cold, warm = measured.cold, measured.warm
    share = warm.steady_images_per_s / alone.limit
    return [
        Row(f"End to end, worker running ({warm.images} images in {warm.chunks} chunks)"),
        Row("  steady: first chunk's start to last one's end", _rate(warm.steady_images_per_s)),
        Row("  share of the limit", f"{share:.2f}", _at_least(share, GOAL_SHARE)),
        Row("  pixelherd submit, start to end of the command", _rate(warm.images_per_s)),
        *(Row(f"  CPU for one image: {who}", _ms(spent / warm.images)) for who, spent in warm.usage.cpu_s.items()),
        _others(warm.usage),
        Row(f"End to end, all starts included ({cold.images} images in {cold.chunks} chunks)"),
        Row("  broker's start to end of the command", f"{_rate(measured.cold_images_per_s)}, {measured.cold_s:.1f} s"),
        Row("  the same with the conversion of the network", _rate(cold.images / _with_conversion_s(measured, alone))),
        _others(cold.usage),
    ]


def rows_of_peer(peer: PeerFigures, measured: EndToEnd, alone: Alone) -> list[Row]:
    """The peer beside our cold run."""
    ratio = measured.cold_images_per_s / peer.images_per_s
    converted = measured.cold.images / _with_conversion_s(measured, alone) / peer.images_per_s
    steady = peer.steady_images_per_s
    return [
        Row(f"Ray Data {peer.versions['ray']} with Keras, float32 ({peer.images} images)"),
        Row("  start included", f"{_rate(peer.images_per_s)}, {peer.seconds:.1f} s"),
        Row("  after its first batch", _rate(steady) if steady else "too short"),
        Row(f"  pixelherd in {alone.precision}, both starts included", f"{ratio:.2f} ×", _at_least(ratio, GOAL_RATIO)),
        Row("  the same with our conversion of the network", f"{converted:.2f} ×"),
    ]


def rows_of_memory(memory: MemoryFigures | None, goal: bool) -> list[Row]:
    """The worker's memory during the warm run."""
    if memory is None:
        return [Row("Worker memory", "run too short")]
    quarters = ", ".join(_mb(pss) for pss in memory.child_pss_by_quarter)
    peak = memory.worker_peak_pss
    return [
        Row("Worker memory, warm run"),
        Row("  all its processes, peak PSS", _mb(peak), _at_most(peak, GOAL_BYTES) if goal else ""),
        Row("  largest child, peak PSS and RSS", f"{_mb(memory.child_peak_pss)}, {_mb(memory.child_peak_rss)}"),
        Row("  largest child, mean PSS in each quarter", quarters),
    ]


def rows_of_sweep(measured: SweepFigures) -> list[Row]:
    """One combination of a sweep."""
    run, memory = measured.run, measured.memory
    peak = f", {_mb(memory.worker_peak_pss)} peak PSS" if memory else ""
    worker_s = run.usage.cpu_s["worker"] / run.images
    figure = f"{_rate(run.steady_images_per_s)} steady, {_rate(run.images_per_s)} by the command"
    return [
        Row(" ".join(f"{name}={value}" for name, value in measured.values.items()), figure),
        Row(f"  {run.chunks} chunks", f"{_ms(worker_s)} CPU of the worker for one image{peak}"),
        _others(run.usage),
    ]


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print the rows; a heading stands alone on its line."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("measured", justify="right", overflow="fold")
    table.add_column("to reach", overflow="fold")
    for row in rows:
        table.add_row(row.what, row.figure, row.goal, style=None if row.figure else "bold")
    Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


def _with_conversion_s(measured: EndToEnd, alone: Alone) -> float:
    return measured.cold_s + alone.first_load_s - alone.load_s


def _others(usage: Usage) -> Row:
    return Row("  cores that other programs kept busy meanwhile", f"{usage.others_cores:.2f}")


def _ms(seconds: float) -> str:
    return f"{1_000 * seconds:.2f} ms"


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:.1f} images/s"


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.0f} MB"


def _at_least(figure: float, goal: float) -> str:
    return f"at least {goal}: {'yes' if figure >= goal else 'no'}"


def _at_most(size_bytes: float, goal: float) -> str:
    return f"at most {_mb(goal)}: {'yes' if size_bytes <= goal else 'no'}"
