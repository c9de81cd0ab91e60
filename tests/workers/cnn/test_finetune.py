"""Training itself, without queue and bucket: what trains, what stays, and that it can be gone on with anywhere."""

import keras
import numpy as np
import pytest

from config.errors import ContractError
from config.models import MODELS
from config.training import Augmentation, TrainingOptions
from workers.cnn.anatomy import dissect, end_for_training
from workers.cnn.augment import augment
from workers.cnn.checkpoint import pack_checkpoint, unpack_checkpoint
from workers.cnn.finetune import make_trainee
from workers.cnn.layer_tables import build_structure
from workers.cnn.loader import load_network
from workers.cnn.preprocess import with_preprocessing
from workers.cnn.recipe import LocalWeights

LITE = MODELS["efficientnet_lite0"].model_copy(update={"input_size": 64})
WEIGHTS = LocalWeights(kind="packaged")
OPTIONS = TrainingOptions(unfreeze=("block7a_*",), epochs=(1, 2), learning_rates=(1e-3, 1e-2))

#: Model, what is unfrozen, and the layer at which its second phase begins.
CUTS = [
    ("inception_v3", ("mixed9", "mixed10"), "mixed8", 2048),
    ("resnet50", ("conv5_block3_out",), "conv5_block2_out", 2048),
    ("vgg19", ("block5_pool",), "block4_pool", 512),
    ("mobilenet_v3_small", ("conv_1", "conv_1_bn"), "expanded_conv_10_add", 576),
    ("efficientnet_b0", ("block7a_*", "top_conv", "top_bn"), "block6d_add", 1280),
    ("densenet121", ("conv5_block16_concat",), "conv5_block15_concat", 1024),
]


def batches(images: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (images, 64, 64, 3), np.uint8)
    pixels[::2, :, :32] //= 4
    return [(pixels[first : first + 4], np.arange(4) % 2) for first in range(0, images, 4)]


def stored(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same images as features of the frozen network."""
    part = with_preprocessing(end_for_training(load_network(LITE, WEIGHTS), (name,), OPTIONS.unfreeze), LITE)
    return [(part.predict_on_batch(pixels), classes) for pixels, classes in batches()]


@pytest.mark.parametrize(("model", "unfreeze", "begins", "features"), CUTS)
def test_a_network_is_cut_where_all_goes_through_one_layer(
    model: str, unfreeze: tuple[str, ...], begins: str, features: int
) -> None:
    network = build_structure(MODELS[model])
    anatomy = dissect(network, unfreeze)
    assert anatomy.frozen is network.get_layer(begins).output
    assert anatomy.pooled.shape[1:] == (features,)


def test_a_second_phase_from_stored_features_is_the_one_from_pixels() -> None:
    """Frozen layers are at rest, so the two see the same numbers, and end with the same weights."""
    ends = []
    for augmentation, examples in (((), stored("frozen")), ((Augmentation.FLIP,), batches())):
        options = OPTIONS.model_copy(update={"augment": augmentation})
        trainee = make_trainee(load_network(LITE, WEIGHTS), LITE, 2, options, phase=2)
        scores = [trainee.train(examples) for _ in range(2)]
        ends.append((scores[1].loss, trainee.state()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3)
    for name, array in ends[0][1].items():
        np.testing.assert_allclose(array, ends[1][1][name], rtol=1e-2, atol=1e-4, err_msg=name)


def test_frozen_layers_are_at_rest_while_others_train() -> None:
    """Dropout of a frozen layer would make another loss of the same images each time."""
    pixels = keras.Input((8, 8, 3))
    seen = keras.layers.Dropout(0.9, name="dropped")(keras.layers.Conv2D(4, 3, name="seen_1")(pixels))
    ends = keras.layers.Conv2D(4, 3, name="seen_2")(seen)
    network = keras.Model(pixels, keras.layers.Dense(2, name="old")(keras.layers.GlobalAveragePooling2D()(ends)))
    spec = MODELS["efficientnet_lite0"].model_copy(update={"input_size": 8, "scaling": "lite"})
    options = TrainingOptions(
        unfreeze=("seen_2",), epochs=(0, 1), learning_rates=(1e-9, 1e-9), augment=(Augmentation.FLIP,)
    )
    trainee = make_trainee(network, spec, 2, options, phase=2)
    examples = [(batches()[0][0][:, :8, :8], np.arange(4) % 2)]
    losses = [trainee.train(examples).loss for _ in range(5)]
    assert losses == pytest.approx([trainee.validate(examples).loss] * 5, rel=1e-5)


def test_only_the_groups_and_the_head_change() -> None:
    network = load_network(LITE, WEIGHTS)
    before = {variable.path: np.array(variable.numpy()) for variable in network.variables}
    trainee = make_trainee(network, LITE, 2, OPTIONS, phase=2)
    trainee.train(stored("frozen"))
    changed = {path.split("/")[0] for path, array in before.items() if not np.array_equal(array, _at(network, path))}
    groups = {layer for layer in trainee.anatomy.trained if network.get_layer(layer).weights}
    assert changed == groups
    assert {name.split("/")[0] for name in trainee.state()} == groups | {"predictions", "optimizer"}


def test_a_training_goes_on_elsewhere_as_if_it_had_not_stopped() -> None:
    """The checkpoint brings the optimizer's memory with it: without it the second epoch would be another one."""
    examples = stored("frozen")
    first = make_trainee(load_network(LITE, WEIGHTS), LITE, 2, OPTIONS, phase=2)
    first.train(examples)
    body = pack_checkpoint(first.state(), ["one epoch"])
    first.train(examples)
    state, story = unpack_checkpoint(body)
    assert story == ["one epoch"]
    second = make_trainee(load_network(LITE, WEIGHTS), LITE, 2, OPTIONS, phase=2)
    second.restore(state)
    second.train(examples)
    for name, array in first.state().items():
        np.testing.assert_allclose(array, second.state()[name], rtol=1e-4, atol=1e-6, err_msg=name)
    with pytest.raises(ContractError, match="other layers"):
        make_trainee(load_network(LITE, WEIGHTS), LITE, 2, OPTIONS, phase=1).restore(state)
    with pytest.raises(ContractError, match="not a checkpoint"):
        unpack_checkpoint(body[:100])


def test_a_head_learns_and_the_whole_network_says_the_same() -> None:
    examples = stored("pooled")
    trainee = make_trainee(load_network(LITE, WEIGHTS), LITE, 2, OPTIONS, phase=1)
    scores = [trainee.train(examples) for _ in range(40)]
    assert scores[-1].loss < 0.5 * scores[0].loss
    assert trainee.validate(examples).accuracy == 1.0
    pixels = np.concatenate([pixels for pixels, _ in batches()])
    whole = with_preprocessing(trainee.whole, LITE).predict(pixels, verbose=0)
    features = np.concatenate([features for features, _ in examples])
    np.testing.assert_allclose(whole, trainee.model.predict(features, verbose=0), atol=1e-5)
    assert [layer.name for layer in trainee.whole.layers][-2:] == ["pooled", "predictions"]
    # A score is that of all images, whatever the batches; here the classes are half wrong, in some batches all.
    wrong = [(features, np.full_like(classes, number % 2)) for number, (features, classes) in enumerate(examples)]
    told = np.argmax(trainee.model.predict(features, verbose=0), axis=1)
    hits = told == np.concatenate([classes for _, classes in wrong])
    assert trainee.validate([wrong[0], wrong[1], (wrong[2][0][:1], wrong[2][1][:1])]).accuracy == hits[:9].mean()
    second = make_trainee(load_network(LITE, WEIGHTS), LITE, 2, OPTIONS, phase=2)
    second.adopt(trainee.state())
    np.testing.assert_allclose(with_preprocessing(second.whole, LITE).predict(pixels, verbose=0), whole, atol=1e-5)


def test_a_trained_and_a_sequential_network_can_be_trained_further() -> None:
    trained = make_trainee(load_network(LITE, WEIGHTS), LITE, 2, OPTIONS, phase=1).whole
    again = make_trainee(trained, LITE, 3, OPTIONS, phase=2)
    assert again.whole.output_shape == (None, 3)
    assert [layer.name for layer in again.whole.layers][-2:] == ["pooled_for_head", "predictions"]
    layers = [keras.layers.Conv2D(4, 3, name="conv_1"), keras.layers.Flatten(), keras.layers.Dense(7)]
    own = keras.Sequential([keras.Input((64, 64, 3)), *layers])
    one_layer = TrainingOptions(unfreeze=("conv_1",), epochs=(0, 1))
    assert make_trainee(own, LITE, 3, one_layer, phase=2).anatomy.pooled.shape == (None, 4)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    options = TrainingOptions(epochs=(1, 0), learning_rates=(9.9, 1e-4))
    trainee = make_trainee(load_network(LITE, WEIGHTS), LITE, 2, options, phase=1)
    with pytest.raises(ContractError, match="no number"):
        trainee.train([(np.full((4, 1280), np.inf, np.float32), np.arange(4) % 2)])
    with pytest.raises(ContractError, match="no image"):
        trainee.train([])


def test_augmentation_follows_its_seed_and_keeps_the_image() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 15:45] = (200, 100, 50)
    kinds = tuple(Augmentation)
    changed = [augment(image, kinds, (1, seed)) for seed in range(30)]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in changed)
    assert np.array_equal(changed[3], augment(image, kinds, (1, 3)))
    assert len({one.tobytes() for one in changed}) == 30
    flips = {augment(image[:, :20], (Augmentation.FLIP,), (seed,)).tobytes() for seed in range(20)}
    assert flips == {image[:, :20].tobytes(), image[:, 19::-1].tobytes()}
    flat = np.full((16, 16, 3), 77, np.uint8)
    assert np.array_equal(augment(flat, (Augmentation.CROP,), (5,)), flat)


def _at(network: keras.Model, path: str) -> np.ndarray:
    return np.array(next(variable.numpy() for variable in network.variables if variable.path == path))
