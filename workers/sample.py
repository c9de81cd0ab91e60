"""Sample: one image in flight, from its key to its row, and the batches that samples travel in."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from config.results import Status
from workers.errors import ImageError

#: Pixels of one image: uint8, height × width × 3, RGB.
Pixels = NDArray[np.uint8]

#: The outputs of the network for one batch: an array for each output, images first.
Outputs = tuple[NDArray[Any], ...]

#: Characters of an error message that a row keeps; some libraries quote the image in it.
MAX_ERROR_CHARACTERS = 300


@dataclass(slots=True)
class Sample:
    """One image in flight. `pixels` is freed by whoever used it last."""

    index: int
    key: str
    status: Status = Status.OK
    error: str | None = None
    etag: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    label: str | None = None
    body: bytes | None = None
    pixels: Pixels | None = None
    result: dict[str, Any] = field(default_factory=dict)
    fetch_s: float = 0.0
    decode_s: float = 0.0

    def failed(self, error: ImageError) -> Self:
        """The same sample with the reason why it has no result; it rides along to the writer."""
        self.status, self.error = error.status, str(error)[:MAX_ERROR_CHARACTERS]
        self.body = self.pixels = None
        return self


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples in order, failed ones among them, and the pixels of those that are decoded.

    `pixels` is uint8, images × height × width × 3; `decoded` are the samples that it belongs to.
    """

    samples: list[Sample]
    decoded: list[Sample]
    pixels: Pixels
