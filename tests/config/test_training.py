"""What a training is asked for: which layers a name stands for, which image validates, what cannot be learnt."""

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from config.errors import ContractError, UsageError
from config.groups import find_group, trained_layers
from config.layers import layers_of
from config.messages import Job
from config.steps import TrainingStep, first_step
from config.training import Epoch, TrainingOptions, all_epochs, check_classes, hash_share, split_class

#: Model, what a person names, how many layers that is, the first and the last of them.
GROUPS = [
    ("inception_v3", "mixed9", 31, "conv2d_80", "mixed9"),
    ("resnet50", "conv5_block3_out", 10, "conv5_block3_1_conv", "conv5_block3_out"),
    ("vgg19", "block5_pool", 5, "block5_conv1", "block5_pool"),
    ("vgg19", "block5_conv4", 1, "block5_conv4", "block5_conv4"),
    ("densenet121", "conv5_block16_concat", 7, "conv5_block16_0_bn", "conv5_block16_concat"),
    ("efficientnet_lite0", "block7a_*", 8, "block7a_expand_conv", "block7a_project_bn"),
]


@pytest.mark.parametrize(("model", "name", "count", "first", "last"), GROUPS)
def test_a_name_stands_for_a_layer_or_its_block(model: str, name: str, count: int, first: str, last: str) -> None:
    group = find_group(layers_of(model), name)
    assert (len(group), group[0], group[-1]) == (count, first, last)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mixed99", "did you mean mixed9"),
        ("predictions", "replaces"),
        ("mixed0", "nothing to train"),
        ("nothing_*", "no layer matches"),
    ],
)
def test_a_name_that_cannot_be_trained_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        trained_layers(layers_of("inception_v3"), [name])


def test_the_hash_of_a_key_alone_says_whether_it_validates() -> None:
    keys = [f"photos/{number}.jpg" for number in range(2_000)]
    validating = split_class(keys, 0.2)
    assert 0.17 < len(validating) / len(keys) < 0.23
    assert validating == {key for key in keys if hash_share(key) < 0.2}
    digest = hashlib.sha256(keys[0].encode()).hexdigest()[:16]
    assert hash_share(keys[0]) == int(digest, 16) / 2**64
    # Whatever the hash says, one of two trains and the other validates.
    assert {len(split_class([f"{number}/a", f"{number}/b"], 0.2)) for number in range(50)} == {1}


@pytest.mark.parametrize(
    ("counts", "validation", "said"),
    [
        ({"cat": 9}, None, "two classes at least.*all 9 images are labelled 'cat'"),
        ({}, None, "no label"),
        ({"cat": 9, "dog": 1}, None, "class 'dog' has 1 images"),
        ({"cat": 9, "dog": 0}, None, "class 'dog' has 0 images that can be read"),
        ({"cat": 9, "dog": 1}, {"cow": 1}, "class 'cow' is to be validated with"),
        ({"cat": 9, "dog": 1}, {}, "left to validate with"),
    ],
)
def test_what_cannot_be_learnt_is_refused(counts: dict[str, int], validation: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_classes(counts, validation)
    check_classes({"cat": 2, "dog": 2})
    check_classes({"cat": 1, "dog": 1}, {"dog": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": (0, 0)},
        {"epochs": (1, 1)},
        {"unfreeze": ("mixed9",)},
        {"augment_head": True},
        {"validation": 1.5},
        {"validation": "s3://bucket/no-slash"},
        {"learning_rates": (0.0, 0.1)},
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingOptions(**wrong)


def test_steps_go_through_all_epochs_and_survive_the_queue() -> None:
    training = TrainingOptions(epochs=(2, 1), unfreeze=("head_conv",))
    job = Job(run_id="r", mode="fine_tune", model="efficientnet_lite0", output="s3://b/", training=training)
    assert job.features is not None
    assert job.features.layers == ("pooled", "frozen")
    step: TrainingStep | None = first_step(job, "b", 10)
    seen = []
    while step is not None:
        assert TrainingStep.from_message(step.to_message()) == step
        seen.append((step.before, step.epoch))
        last, step = step, step.following()
    first, second, third = all_epochs(training)
    assert seen == [(None, first), (first, second), (second, third)]
    assert (third, last.chunk_id) == (Epoch(2, 1), "epoch-2-0001")
    with pytest.raises(ContractError, match="no epoch 2-0002"):
        TrainingStep.from_message({**last.to_message(), "number": 2})
    augmented = training.model_copy(update={"augment": ("flip",)})
    whole = Job(run_id="r", mode="fine_tune", model="efficientnet_lite0", output="s3://b/", training=augmented)
    assert whole.features is not None
    assert whole.features.layers == ("pooled",)
