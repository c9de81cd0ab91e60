"""A recipe: everything that decides which numbers a network puts out, as one frozen value with a digest.

It travels to the process that converts a network, and its digest names what was converted.
"""

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from config.errors import ContractError
from config.messages import Weights
from config.models import ModelSpec
from workers.cnn.efficientnet_lite import packaged_weights

#: Raise it when the same recipe is built or converted into another network than before.
RECIPE_VERSION = 2

#: What turns a recipe into numbers; tensorflow and tensorflow-cpu are two distributions of one library.
LIBRARIES = ("keras", "numpy", "openvino", "tensorflow", "tensorflow-cpu")


class LocalWeights(BaseModel):
    """Weights that this machine has or can make; the local side of config.messages.Weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file", "packaged", "imagenet", "random"]
    path: Path | None = None
    seed: int = 0

    @classmethod
    def of(cls, weights: Weights, path: Path | None) -> "LocalWeights":
        """What a job names, with the file that was fetched for it where it names one."""
        if "://" not in weights.uri:
            return cls.model_validate({"kind": weights.uri})
        return cls(kind="file", path=path)

    @property
    def sha256(self) -> str | None:
        """sha256 (hex) of the file that the weights are read from; None where there is none to read."""
        if self.kind == "packaged":
            return sha256_of(packaged_weights())
        return sha256_of(self.file) if self.kind == "file" else None

    @property
    def file(self) -> Path:
        """The local file; ContractError where it is not there."""
        if self.path is None or not self.path.is_file():
            raise ContractError(f"weights {self.path}: no such file on this machine")
        return self.path


class NetworkRecipe(BaseModel):
    """A model, its weights, and the layers whose values it puts out (none: its own end); then its own end, if asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: ModelSpec
    weights: LocalWeights
    layers: tuple[str, ...] = ()
    with_end: bool = False
    #: Of a training: what it will unfreeze; `layers` are then the places at which it cuts the network.
    unfreeze: tuple[str, ...] | None = None

    @property
    def digest(self) -> str:
        """sha256 (hex): the same on every machine with the same weights and library versions."""
        decisive = {
            "classes": self.spec.classes,
            "include_top": self.spec.include_top,
            "layers": self.layers,
            "libraries": library_versions(),
            "model": self.spec.name,
            "pooling": self.spec.pooling,
            "preprocess": self.spec.preprocess_digest,
            "unfreeze": self.unfreeze,
            "version": RECIPE_VERSION,
            "with_end": self.with_end,
            "weights": [self.weights.kind, self.weights.sha256, self.weights.seed],
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def library_versions() -> dict[str, str]:
    """Installed library -> version, from the packages' metadata: nothing is imported for it."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
