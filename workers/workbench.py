"""Workbench: what a worker process keeps from chunk to chunk: stores, and the networks it has loaded."""

import json
import platform
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import PIL
from obstore.store import S3Store

from config.clients import make_s3, make_store
from config.errors import ContractError, PixelherdError, UnavailableError
from config.features import Shape
from config.layers import known_shapes
from config.messages import Engine as EngineName
from config.messages import Job, Mode, Precision, Weights, job_spec
from config.models import ModelSpec
from config.own_model import OwnModel
from config.settings import Settings
from workers.cnn.engines import Engine, EngineOptions, make_engine
from workers.cnn.engines.options import usable_cores
from workers.cnn.labels import Label, find_labels
from workers.cnn.recipe import LocalWeights, NetworkRecipe, library_versions
from workers.errors import TransientError
from workers.fetch import OpenKey, make_opener
from workers.weights import WeightsCache, check_keras_file, fetch_own_model, fetch_weights

#: Networks that stay loaded in one process: two runs that take turns need not load theirs again and again.
LOADED_NETWORKS = 2

#: Jobs of which this process remembers why it cannot do them.
REMEMBERED_REFUSALS = 100


#: What of a job, beside the layers, decides the network and how it is run.
NETWORK_FIELDS = {"model", "spec", "weights", "preprocess_digest", "engine", "precision"}


#: Modes whose rows say of which class an image is.
NEEDS_CLASSES = (Mode.CLASSIFY, Mode.EVALUATE)


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network and what its rows must say of it."""

    spec: ModelSpec
    engine: Engine
    labels: Sequence[Label]
    provenance: dict[str, Any]
    #: Of what the layers put out whose features are asked for.
    shapes: Sequence[Shape]


class Workbench:
    """Made in a worker's child, never in the process that forks: threads and networks do not survive a fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stores: dict[str, S3Store] = {}
        self._networks: OrderedDict[str, Network] = OrderedDict()
        #: Why a network cannot be had, by what was asked: finding it out again takes seconds for each chunk of a run.
        #: In words: an error that is kept keeps all that was in memory when it was raised.
        self._refusals: OrderedDict[str, tuple[type[PixelherdError], str]] = OrderedDict()

    @property
    def cores(self) -> int:
        """Cores that one network may compute with."""
        return self.settings.engine_threads or usable_cores()

    @property
    def decode_threads(self) -> int:
        return self.settings.decode_threads or usable_cores()

    @cached_property
    def s3(self) -> Any:
        return make_s3(self.settings)

    def store(self, bucket: str) -> S3Store:
        """obstore's view of a bucket; one for each bucket, since each keeps its connections."""
        if bucket not in self._stores:
            self._stores[bucket] = make_store(self.settings, bucket)
        return self._stores[bucket]

    def opener(self, bucket: str) -> OpenKey:
        return make_opener(self.store(bucket), self.s3, bucket)

    def network(self, job: Job) -> Network:
        """The network of a job, loaded at its first chunk; the least used one goes when there are too many."""
        if not job_spec(job).include_top and job.mode in NEEDS_CLASSES:
            raise ContractError(f"{job.model} without its top has no classes, which {job.mode} needs")
        known_shapes(job)  # UsageError for a layer that there is not, before a network is made for it
        asked = job.model_dump_json(include=NETWORK_FIELDS) + str(_outputs_of(job))
        if asked in self._refusals:
            kind, text = self._refusals[asked]
            raise kind(text)
        if asked not in self._networks:
            self._networks[asked] = self._load_or_remember(job, asked)
            if len(self._networks) > LOADED_NETWORKS:
                self._networks.popitem(last=False)
        self._networks.move_to_end(asked)
        return self._networks[asked]

    def _load_or_remember(self, job: Job, asked: str) -> Network:
        try:
            return self._load(job)
        except (TransientError, UnavailableError):  # the next chunk may have more luck
            raise
        except PixelherdError as error:
            self._refusals[asked] = type(error), str(error)
            if len(self._refusals) > REMEMBERED_REFUSALS:
                self._refusals.popitem(last=False)
            raise

    def recipe(self, job: Job) -> NetworkRecipe:
        """What a job's network is made of, its weights on this machine; ContractError where they are not its own."""
        spec = job_spec(job)
        if job.preprocess_digest not in (None, spec.preprocess_digest):
            raise ContractError(
                f"{spec.name} is preprocessed otherwise here than where the run was submitted: "
                "give producer and workers the same version of pixelherd"
            )
        if job.weights is None and spec.default_weights == "file":
            raise ContractError(f"{spec.name} is an own model, and its job names no .keras file")
        weights = _weights_of(job)
        file = fetch_weights(weights, self._cache)
        check_keras_file(weights, file)
        return NetworkRecipe(spec=spec, weights=LocalWeights.of(weights, file), **_outputs_of(job))

    def _load(self, job: Job) -> Network:
        recipe, spec, weights = self.recipe(job), job_spec(job), _weights_of(job)
        own = fetch_own_model(weights, self._cache)
        try:
            engine = make_engine(recipe, self._engine_options(job))
        except ContractError as error:  # which knows the file by this machine's name for it
            raise ContractError(f"weights {weights.uri}: {error}") from error
        provenance = {
            "model": spec.name,
            "weights": weights.uri,
            "weights_sha256": recipe.weights.sha256,
            "preprocess_digest": spec.preprocess_digest,
            "engine": engine.name,
            "precision": engine.precision,
            "versions": json.dumps(
                {**library_versions(), "pillow": PIL.__version__, "python": platform.python_version()}
            ),
        }
        shapes = engine.output_shapes[: len(recipe.layers) or 1]
        return Network(spec, engine, _labels_of(spec, own), provenance, shapes)

    @property
    def _cache(self) -> WeightsCache:
        return WeightsCache(self.settings.cache_dir, self.store, self.settings.allow_file_weights)

    def _engine_options(self, job: Job) -> EngineOptions:
        """What the job says goes before this worker's own settings."""
        return EngineOptions(
            cache_dir=self.settings.cache_dir,
            engine=job.engine if job.engine is not EngineName.AUTO else self.settings.engine,
            precision=job.precision if job.precision is not Precision.AUTO else self.settings.precision,
            batch_size=self.settings.batch_size,
            threads=self.settings.engine_threads,
        )


def _weights_of(job: Job) -> Weights:
    """Those that the job names, else the model's own."""
    return job.weights or Weights(uri=job_spec(job).default_weights)


def _labels_of(spec: ModelSpec, own: OwnModel | None) -> Sequence[Label]:
    """The names of a network's classes; none where it ends below them."""
    labels = own.labels if own else find_labels(spec)
    if spec.include_top and len(labels) != spec.classes:
        raise ContractError(f"{spec.name} has {spec.classes} classes, and the JSON beside it names {len(labels)}")
    return labels if spec.include_top else ()


def _outputs_of(job: Job) -> dict[str, Any]:
    """What a job wants of its network, as fields of the recipe; nothing: its own end."""
    asked = job.features
    unfreeze = {} if job.training is None else {"unfreeze": job.training.unfreeze}
    return {} if asked is None else {"layers": asked.layers, "with_end": asked.with_top, **unfreeze}
