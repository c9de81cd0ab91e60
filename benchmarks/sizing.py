"""Measured speeds, list prices and what was measured of keys -> the tables of docs/sizing.md.

`python -m benchmarks.sizing --write docs/sizing.md` puts them there, between their marks; `--measure` first measures
the keys again on this machine (minutes) and keeps that in sizing_measured.json. A test holds the page to the tables.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from config.settings import Settings
from producer.chunker import PART_CHUNKS

MEASURED = Path(__file__).with_name("sizing_measured.json")

SIZES = {"1 million": 10**6, "100 million": 10**8, "1 billion": 10**9}

CHUNK = Settings.model_fields["chunk_size"].default
WINDOW = Settings.model_fields["queue_window"].default

#: Machines of a fleet for the times of the tables: the playbooks' own maximum, and the largest that was thought of.
FLEETS = (20, 500)


@dataclass(frozen=True, slots=True)
class Speed:
    """Images per second of one core, S3 to Parquet, and where that comes from."""

    resnet50: float
    efficientnet_lite0: float
    inception_v3: float
    vgg19: float
    source: str

    def of(self, model: str) -> float:
        found: float = getattr(self, model)
        return found


MODELS = ("efficientnet_lite0", "resnet50", "inception_v3", "vgg19")

#: Two cores of a Xeon at 2.5 GHz without bfloat16. The first two models were measured end to end on a quiet machine
#: (README, config/celeryconfig.py). The others follow from their CPU seconds for an image, all stages, beside those of
#: ResNet50 in the same hour (benchmarks.alone: 78.2, 170.5 and 369.3 ms, on a machine that others kept busy).
FLOAT32 = Speed(
    resnet50=21.7 / 2,
    efficientnet_lite0=80.0 / 2,
    inception_v3=21.7 / 2 * 78.2 / 170.5,
    vgg19=21.7 / 2 * 78.2 / 369.3,
    source="float32, measured on a Xeon at 2.5 GHz",
)

#: Two cores of an EPYC with AVX-512 and bfloat16, end to end with a sketch of this design, before it was built.
BFLOAT16 = Speed(
    resnet50=49 / 2,
    efficientnet_lite0=180 / 2,
    inception_v3=31 / 2,
    vgg19=10 / 2,
    source="bfloat16, measured elsewhere on an EPYC",
)


@dataclass(frozen=True, slots=True)
class Instance:
    """A type, its list price in us-east-1, Linux, and how fast a vCPU of it is taken to be."""

    name: str
    vcpus: int
    dollars_per_h: float
    price_from: str
    speed: Speed | None = None
    taken_as: str = "not measured"

    def images_per_s(self, model: str) -> float | None:
        return None if self.speed is None else self.vcpus * self.speed.of(model)


CATALOGUE = "SkyPilot's catalogue of AWS prices, v8, commit 00148f2 (2026)"

INSTANCES = (
    Instance(
        "c7i.xlarge", 4, 0.1785, CATALOGUE, FLOAT32, "a vCPU as one core of the Xeon; its AMX would make it faster"
    ),
    Instance("c7a.xlarge", 4, 0.2053, "from memory, a multiple checked in public code", BFLOAT16, "a core of the EPYC"),
    Instance("c8g.xlarge", 4, 0.1595, "public code that names AWS's price list of 2026-09-29"),
    Instance("g5.xlarge", 4, 1.006, "factualminds.com, June 2026"),
    Instance("g6.xlarge", 4, 0.8048, "from memory, checked in public code"),
)

#: Spot price / list price of c7i.xlarge in the zones of us-east-1, as CATALOGUE has it: 0.0678 to 0.0785 $.
SPOT_SHARE = 0.41

#: Dollars for one request to S3 Standard in us-east-1: from memory, unchanged for years; check.
GET_DOLLARS = 0.0004 / 1_000
PUT_DOLLARS = 0.005 / 1_000  # LIST too

#: Requests of one chunk beside its images: is it done or cancelled (two HEADs), its part, its summary, and one GET of
#: the summary by whoever watches.
CHUNK_GETS = 3
CHUNK_PUTS = 2

#: Chunks of one listing of names, as S3 pages it.
PAGE = 1_000


def requests(images: int) -> dict[str, int]:
    """Requests that a run makes of S3, with nothing tried twice."""
    chunks, parts = ceil(images / CHUNK), ceil(images / (CHUNK * PART_CHUNKS))
    return {
        "GET and HEAD": images + CHUNK_GETS * chunks + parts,
        "PUT": CHUNK_PUTS * chunks + parts,
        "LIST": ceil(images / PAGE) + ceil(chunks / PAGE),
    }


def request_dollars(images: int) -> float:
    """What AWS takes for them."""
    made = requests(images)
    return made["GET and HEAD"] * GET_DOLLARS + (made["PUT"] + made["LIST"]) * PUT_DOLLARS


def speed_table() -> str:
    """Images per second of each type and model."""
    rows = [
        [
            one.name,
            f"{one.dollars_per_h:.4f}",
            *(_number(one.images_per_s(model)) for model in MODELS),
            one.taken_as,
        ]
        for one in INSTANCES
    ]
    return _table(["type", "$/h, list", *MODELS, "a vCPU is taken as"], rows)


def cost_table() -> str:
    """Dollars of machines for each size, by list price and by spot."""
    rows = [
        [
            one.name,
            model,
            *(_dollars_pair(images, one.dollars_per_h, rate) for images in SIZES.values()),
        ]
        for one in INSTANCES
        for model in MODELS
        if (rate := one.images_per_s(model)) is not None
    ]
    return _table(["type", "model", *(f"{name}, $ list (spot)" for name in SIZES)], rows)


def time_table() -> str:
    """Hours for each size with so many machines."""
    rows = [
        [one.name, model, *(_hours(images / rate / fleet) for images in SIZES.values() for fleet in FLEETS)]
        for one in INSTANCES
        for model in MODELS
        if (rate := one.images_per_s(model)) is not None
    ]
    return _table(["type", "model", *(f"{name} on {fleet}" for name in SIZES for fleet in FLEETS)], rows)


def even_table() -> str:
    """Images per second from which a type that was not measured is the cheaper one."""
    best = {
        model: min(one.dollars_per_h / rate for one in INSTANCES if (rate := one.images_per_s(model)))
        for model in MODELS
    }
    rows = [
        [one.name, *(f"{one.dollars_per_h / best[model]:,.0f}" for model in MODELS)]
        for one in INSTANCES
        if one.speed is None
    ]
    return _table(["type", *MODELS], rows)


def s3_table() -> str:
    """The bill for requests."""
    rows = []
    for name, images in SIZES.items():
        made = requests(images)
        rows.append([name, *(f"{count:,}" for count in made.values()), f"{request_dollars(images):,.2f}"])
    return _table(["images", "GET and HEAD", "PUT", "LIST", "$"], rows)


def keys_table(measured: dict[str, Any]) -> str:
    """What was measured of keys and chunks, and what follows for each size."""
    freeze, enqueue, status = measured["freeze"], measured["enqueue"], measured["status"]
    per_summary, per_name = (status[name] / status["summaries"] for name in ("first_look_s", "names_first_look_s"))
    figures: list[tuple[str, Callable[[int], str]]] = [
        ("chunks of 256", lambda images: f"{ceil(images / CHUNK):,}"),
        ("freezing the manifest, one core", lambda images: _span(images / freeze["keys_per_cpu_s"])),
        ("manifest in S3", lambda images: _bytes(images * freeze["bytes_per_key"])),
        ("enqueueing, one core", lambda images: _span(images / CHUNK / enqueue["chunks_per_cpu_s"])),
        ("Redis, a full window", lambda images: _bytes(min(WINDOW, images / CHUNK) * enqueue["redis_bytes_per_chunk"])),
        ("first `status` of a run that is done, as it went", lambda images: _span(images / CHUNK * per_summary)),
        ("autoscale's first look at it, as it went", lambda images: _span(images / CHUNK * per_name)),
    ]
    rows = [[what, *(figure(images) for images in SIZES.values())] for what, figure in figures]
    return _table(["", *SIZES], rows)


def measured_table(measured: dict[str, Any]) -> str:
    """The measurements themselves."""
    freeze, enqueue, status, listing = (measured[name] for name in ("freeze", "enqueue", "status", "list"))
    rows = [
        ["keys frozen", f"{freeze['keys']:,}", ""],
        ["keys/s frozen", f"{freeze['keys_per_s']:,.0f}", f"{freeze['keys_per_cpu_s']:,.0f}"],
        ["bytes of manifest for a key", f"{freeze['bytes_per_key']:.1f}", ""],
        ["memory of the producer, all of it", f"{freeze['producer_rss_mb']:.0f} MB", ""],
        ["chunks/s enqueued", f"{enqueue['chunks_per_s']:,.0f}", f"{enqueue['chunks_per_cpu_s']:,.0f}"],
        ["Redis for a waiting chunk of 256 keys", _bytes(enqueue["redis_bytes_per_chunk"]), ""],
        [
            f"first `status` over {status['summaries']:,} summaries",
            f"{status['first_look_s']:.1f} s",
            f"{status['first_look_cpu_s']:.1f} s",
        ],
        ["the next one", f"{status['next_look_s']:.2f} s", ""],
        [
            "autoscale's first look, by names alone",
            f"{status['names_first_look_s']:.2f} s",
            f"{status['names_first_look_cpu_s']:.2f} s",
        ],
        ["its next one", f"{status['names_next_look_s']:.3f} s", ""],
        [
            "keys/s listed from the local S3 server",
            f"{listing['keys_per_s']:,.0f}",
            f"{listing['keys_per_cpu_s']:,.0f}",
        ],
    ]
    machine = measured["machine"]
    title = f"{machine['cores']} cores of {machine['cpu']}, {measured['at']}"
    return _table(
        [title, f"as it went, at a load of {measured['load']:.0f}", "by the producer's CPU seconds alone"], rows
    )


def tables() -> dict[str, str]:
    """Every table of the page, by its mark."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    return {
        "speed": speed_table(),
        "cost": cost_table(),
        "time": time_table(),
        "even": even_table(),
        "s3": s3_table(),
        "measured": measured_table(measured),
        "keys": keys_table(measured),
    }


def fill(page: str) -> str:
    """The page with the tables between their marks; KeyError for a mark that is no table."""
    made = tables()

    def filled(found: re.Match[str]) -> str:
        return f"{found[1]}\n{made[found[2]]}\n{found[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", filled, page, flags=re.DOTALL)


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(headings)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _dollars_pair(images: int, dollars_per_h: float, rate: float) -> str:
    dollars = images / rate / 3600 * dollars_per_h
    return (
        f"{dollars:,.2f} ({dollars * SPOT_SHARE:,.2f})"
        if dollars < 100
        else f"{dollars:,.0f} ({dollars * SPOT_SHARE:,.0f})"
    )


def _hours(seconds: float) -> str:
    return _span(seconds)


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}" if seconds >= 10 * length else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"


def _bytes(size: float) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= length:
            return f"{size / length:,.1f} {unit}"
    return f"{size:.0f} B"


def main() -> None:
    """Measure, print or write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true", help="measure the keys on this machine first; minutes")
    parser.add_argument("--write", type=Path, help="the page whose tables are made again")
    given = parser.parse_args()
    if given.measure:
        from benchmarks.sizing_measure import Sizes, measure

        MEASURED.write_text(json.dumps(measure(Sizes()), indent=1) + "\n", encoding="utf-8")
    if given.write:
        given.write.write_text(fill(given.write.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(f"{name}\n\n{table}" for name, table in tables().items()))


if __name__ == "__main__":
    main()
