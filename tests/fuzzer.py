"""Fuzzer: from a seed and a number of mutants to what their decoding did: `python -W error -m tests.fuzzer`.

It runs in a process of its own, since what it looks for may kill it: `--keep` names the file that says which mutants
are in hand. A warning that escapes is an error: in a thread of a worker nobody reads it.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from config.models import MODELS
from config.results import Status
from tests.images import noise
from tests.mutants import mutant
from workers.ahead import Budget
from workers.decode import DecodeLimits, decode_images
from workers.sample import Sample

SPEC = MODELS["efficientnet_lite0"]

#: Mutants of one call of `decode_images`, so that they are neighbours as in a chunk.
AT_ONCE = 8

#: Seconds after which a slice counts as hung: the process prints where it stands and ends.
HANG_S = 60.0


def decode_all(bodies: list[bytes], limits: DecodeLimits) -> list[Sample]:
    """The samples of some files, decoded as neighbours."""
    samples = [Sample(index, str(index), body=body) for index, body in enumerate(bodies)]
    return list(decode_images(samples, SPEC, limits, Budget(10**9)))


def check(sample: Sample) -> None:
    """A sample has pixels of the right shape, or a status with a reason; AssertionError otherwise."""
    assert sample.body is None
    assert max(sample.width or 0, sample.height or 0) < 2**31  # as a row's int32 has it
    (sample.error or "").encode()
    if sample.status is Status.OK:
        assert sample.pixels is not None
        assert sample.pixels.shape == (SPEC.input_size, SPEC.input_size, 3)
        assert sample.pixels.dtype == np.uint8
        assert sample.error is None
    else:
        assert sample.status in (Status.UNDECODABLE, Status.TOO_LARGE)
        assert sample.pixels is None
        assert sample.error


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Decode, and print one line of JSON: statuses, the slowest slice, and the growth of memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, default=Path(os.devnull))
    parser.add_argument("--max-image-pixels", type=int, default=4_000_000)
    given = parser.parse_args()
    faulthandler.enable()
    limits = DecodeLimits(2, given.max_image_pixels, 2**28, Path(tempfile.gettempdir()) / "pixelherd-fuzzer.lock")
    good = noise(1)
    check(decode_all([good], limits)[0])
    before, counts, slowest, growth = peak_mb(), Counter[str](), (0.0, ""), (0.0, "")
    first = given.seed * 1_000_000
    for start in range(first, first + given.count, AT_ONCE):
        made = [mutant(number) for number in range(start, start + AT_ONCE)]
        given.keep.write_bytes(b"\n".join(name.encode() for name, _ in made))
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        began, was = time.perf_counter(), peak_mb()
        for sample in decode_all([good, *(body for _, body in made), good], limits):
            check(sample)
            counts[sample.status.value] += 1
        slowest = max(slowest, (time.perf_counter() - began, made[0][0]))
        growth = max(growth, (peak_mb() - was, made[0][0]))
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(
        json.dumps(
            {
                "seed": given.seed,
                "counts": counts,
                "slowest_s": slowest,
                "growth_mb": growth,
                "whole_growth_mb": peak_mb() - before,
            }
        )
    )


if __name__ == "__main__":
    main()
