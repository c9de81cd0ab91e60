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
from config.errors import ContractError
from config.messages import Engine as EngineName
from config.messages import Job, Precision, Weights
from config.models import ModelSpec, find_model
from config.settings import Settings
from workers.cnn.engines import Engine, EngineOptions, make_engine
from workers.cnn.engines.options import usable_cores
from workers.cnn.labels import Label, find_labels
from workers.cnn.recipe import LocalWeights, NetworkRecipe, library_versions
from workers.fetch import OpenKey, make_opener
from workers.weights import WeightsCache, fetch_weights

#: Networks that stay loaded in one process: two runs that take turns need not load theirs again and again.
LOADED_NETWORKS = 2


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network and what its rows must say of it."""

    spec: ModelSpec
    engine: Engine
    labels: Sequence[Label]
    provenance: dict[str, Any]


class Workbench:
    """Made in a worker's child, never in the process that forks: threads and networks do not survive a fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stores: dict[str, S3Store] = {}
        self._networks: OrderedDict[str, Network] = OrderedDict()

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
        asked = job.model_copy(update={"run_id": "", "top_k": 1, "output": ""}).model_dump_json()
        if asked not in self._networks:
            self._networks[asked] = self._load(job)
            if len(self._networks) > LOADED_NETWORKS:
                self._networks.popitem(last=False)
        self._networks.move_to_end(asked)
        return self._networks[asked]

    def _load(self, job: Job) -> Network:
        spec = find_model(job.model)
        if job.preprocess_digest not in (None, spec.preprocess_digest):
            raise ContractError(
                f"{spec.name} is preprocessed otherwise here than where the run was submitted: "
                "give producer and workers the same version of pixelherd"
            )
        weights = job.weights or Weights(uri=spec.default_weights)
        cache = WeightsCache(self.settings.cache_dir, self.store, self.settings.allow_file_weights)
        recipe = NetworkRecipe(spec=spec, weights=LocalWeights.of(weights, fetch_weights(weights, cache)))
        engine = make_engine(recipe, self._engine_options(job))
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
        return Network(spec, engine, find_labels(spec), provenance)

    def _engine_options(self, job: Job) -> EngineOptions:
        """What the job says goes before this worker's own settings."""
        return EngineOptions(
            cache_dir=self.settings.cache_dir,
            engine=job.engine if job.engine is not EngineName.AUTO else self.settings.engine,
            precision=job.precision if job.precision is not Precision.AUTO else self.settings.precision,
            batch_size=self.settings.batch_size,
            threads=self.settings.engine_threads,
        )
