"""What travels on the queue: read back as it was sent, and refused in one line where it is not known."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.errors import ContractError, UnknownModel
from config.messages import MAX_CHUNK_KEYS, Chunk, Job, Weights, job_spec
from config.models import MODELS, ModelSpec, Scaling
from config.results import ChunkPlace

JOB = Job(run_id="run-1", model="resnet50", output="s3://out/results")

#: S3 keys are 1 to 1,024 bytes of UTF-8.
keys = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200), min_size=1, max_size=20)


def chunk(**changes):
    return Chunk(**{"job": JOB, "bucket": "photos", "keys": ("a.jpg", "b.jpg"), **changes})


@given(keys=keys, part=st.integers(0, 99_999), start=st.integers(0, 9_999_999))
def test_a_chunk_comes_back_from_json_as_it_was(keys, part, start):
    sent = chunk(keys=tuple(keys), part=part, start=start)
    came = Chunk.from_message(json.loads(json.dumps(sent.to_message())))
    assert came == sent
    assert came.chunk_id == sent.chunk_id
    assert ChunkPlace.parse(came.chunk_id) == ChunkPlace(part, start, len(keys))


@pytest.mark.parametrize("scaling", ["tf", Scaling(color_order="BGR", mean=(1, 2, 3), std=(0.5, 1, 2))])
def test_a_model_that_is_no_row_of_the_catalogue_comes_back_as_it_was(scaling):
    spec = ModelSpec(name="own", input_size=24, input_width=32, scaling=scaling, resize="squash", include_top=False)
    sent = chunk(job=JOB.model_copy(update={"model": "own", "spec": spec}))
    came = Chunk.from_message(json.loads(json.dumps(sent.to_message())))
    assert came == sent
    assert job_spec(came.job) == spec
    assert job_spec(came.job).preprocess_digest == spec.preprocess_digest


def test_a_job_without_a_spec_means_a_row_of_the_catalogue():
    assert job_spec(JOB) == MODELS["resnet50"]
    with pytest.raises(UnknownModel, match="unknown model 'own'"):
        job_spec(JOB.model_copy(update={"model": "own"}))


def test_a_chunks_name_follows_from_its_place_and_its_keys_and_from_nothing_else():
    names = {
        chunk().chunk_id,
        chunk(keys=("b.jpg", "a.jpg")).chunk_id,
        chunk(keys=("a.jpgb.jpg",)).chunk_id,
        chunk(bucket="other").chunk_id,
        chunk(part=1).chunk_id,
        chunk(start=2).chunk_id,
    }
    assert len(names) == 6
    assert chunk(job=JOB.model_copy(update={"run_id": "run-2"})).chunk_id == chunk().chunk_id


def test_the_name_of_a_chunk_is_part_of_the_contract():
    """A worker of another version must find the summary that this one wrote."""
    assert chunk(part=3, start=512).chunk_id == "00003-0000512-0002-" + chunk().chunk_id[-8:]
    assert chunk().chunk_id == "00000-0000000-0002-ae2a7cea"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version"),
        ({"keys": []}, "keys"),
        ({"keys": ["a"] * (MAX_CHUNK_KEYS + 1)}, "keys"),
        ({"keys": "a.jpg"}, "keys"),
        ({"bucket": ""}, "bucket"),
        ({"surprise": 1}, "surprise"),
        ({"job": {**JOB.model_dump(mode="json"), "version": 2}}, "job.version"),
        ({"job": {**JOB.model_dump(mode="json"), "mode": "paint"}}, "job.mode"),
        ({"job": {**JOB.model_dump(mode="json"), "top_k": 0}}, "job.top_k"),
        ({"job": {**JOB.model_dump(mode="json"), "mode": "extract_features"}}, "features go together"),
        ({"job": {**JOB.model_dump(mode="json"), "features": {"layers": ["fc2"]}}}, "features go together"),
        ({"job": {**JOB.model_dump(mode="json"), "features": {"layers": ["fc2", "fc2"]}}}, "named twice"),
        ({"job": {**JOB.model_dump(mode="json"), "features": {"layers": [""]}}}, "job.features.layers"),
        ({"job": {**JOB.model_dump(mode="json"), "features": {"layers": ["fc2"], "pool": "sum"}}}, "job.features.pool"),
        ({"job": {**JOB.model_dump(mode="json"), "output": "/home/me"}}, "job.output"),
        ({"job": {**JOB.model_dump(mode="json"), "run_id": "../x"}}, "job.run_id"),
        ({"job": {**JOB.model_dump(mode="json"), "weights": {"uri": "http://x/y.h5"}}}, "job.weights.uri"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line_that_names_it(change, said):
    with pytest.raises(ContractError, match=said) as caught:
        Chunk.from_message({**chunk().to_message(), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("message", [None, [], "chunk", 1, {}])
def test_what_is_no_message_at_all_is_refused(message):
    with pytest.raises(ContractError):
        Chunk.from_message(message)


def test_a_refusal_does_not_repeat_what_it_was_given():
    with pytest.raises(ContractError) as caught:
        Chunk.from_message({**chunk().to_message(), "keys": ["holiday/secret.jpg", 1]})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["packaged", "imagenet", "random", "s3://bucket/model.keras", "file:///models/resnet.weights.h5"],
)
def test_weights_have_a_known_address(uri):
    assert Weights(uri=uri).uri == uri


@pytest.mark.parametrize("uri", ["", "s3://bucket", "file://host/x.h5", "https://host/x.h5", "packaged "])
def test_weights_have_no_other_address(uri):
    with pytest.raises(ValidationError):
        Weights(uri=uri)


def test_values_are_frozen():
    with pytest.raises(ValidationError):
        chunk().bucket = "other"
