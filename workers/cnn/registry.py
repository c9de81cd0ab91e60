"""The builders of the models: a ModelSpec in, its Keras network out, with initial weights or Keras's ImageNet ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from config.errors import ContractError
from config.models import ModelSpec
from workers.cnn.efficientnet_lite import build_efficientnet_lite0

if TYPE_CHECKING:
    import keras

#: Model -> its function in keras.applications; a name, since only a process that builds networks may load Keras.
KERAS_FUNCTIONS = {
    "inception_v3": "InceptionV3",
    "resnet50": "ResNet50",
    "vgg19": "VGG19",
}

#: What keras.applications lacks: model -> builder that takes the input's size in pixels and the number of classes.
OWN_BUILDERS = {
    "efficientnet_lite0": build_efficientnet_lite0,
}


def build_network(spec: ModelSpec, weights: Literal["imagenet"] | None = None) -> keras.Model:
    """Build a model's architecture: scaled float images in, softmax probabilities out."""
    if spec.name in OWN_BUILDERS:
        if weights is not None:
            raise ContractError(f"Keras has no {weights} weights for {spec.name}")
        return OWN_BUILDERS[spec.name](spec.input_size, spec.classes)
    import keras

    build = getattr(keras.applications, KERAS_FUNCTIONS[spec.name])
    return build(weights=weights, input_shape=(spec.input_size, spec.input_size, 3), classes=spec.classes)
