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
    "convnext_tiny": "ConvNeXtTiny",
    "convnext_small": "ConvNeXtSmall",
    "convnext_base": "ConvNeXtBase",
    "convnext_large": "ConvNeXtLarge",
    "convnext_xlarge": "ConvNeXtXLarge",
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "efficientnet_b0": "EfficientNetB0",
    "efficientnet_b1": "EfficientNetB1",
    "efficientnet_b2": "EfficientNetB2",
    "efficientnet_b3": "EfficientNetB3",
    "efficientnet_b4": "EfficientNetB4",
    "efficientnet_b5": "EfficientNetB5",
    "efficientnet_b6": "EfficientNetB6",
    "efficientnet_b7": "EfficientNetB7",
    "efficientnet_v2_b0": "EfficientNetV2B0",
    "efficientnet_v2_b1": "EfficientNetV2B1",
    "efficientnet_v2_b2": "EfficientNetV2B2",
    "efficientnet_v2_b3": "EfficientNetV2B3",
    "efficientnet_v2_s": "EfficientNetV2S",
    "efficientnet_v2_m": "EfficientNetV2M",
    "efficientnet_v2_l": "EfficientNetV2L",
    "inception_resnet_v2": "InceptionResNetV2",
    "inception_v3": "InceptionV3",
    "mobilenet": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3Small",
    "mobilenet_v3_large": "MobileNetV3Large",
    "nasnet_mobile": "NASNetMobile",
    "nasnet_large": "NASNetLarge",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
    "resnet152": "ResNet152",
    "resnet50_v2": "ResNet50V2",
    "resnet101_v2": "ResNet101V2",
    "resnet152_v2": "ResNet152V2",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "xception": "Xception",
}

#: What keras.applications lacks: model -> builder that takes the spec.
OWN_BUILDERS = {
    "efficientnet_lite0": build_efficientnet_lite0,
}


def build_network(spec: ModelSpec, weights: Literal["imagenet"] | None = None) -> keras.Model:
    """Build a model's architecture: scaled float images in, softmax probabilities, or what is below the top, out."""
    if spec.name in OWN_BUILDERS:
        if weights is not None:
            raise ContractError(f"Keras has no {weights} weights for {spec.name}")
        return OWN_BUILDERS[spec.name](spec)
    if spec.name not in KERAS_FUNCTIONS:
        raise ContractError(f"{spec.name} is an own model: its network comes from a .keras file, and from nowhere else")
    import keras

    build = getattr(keras.applications, KERAS_FUNCTIONS[spec.name])
    return build(
        weights=weights,
        input_shape=spec.input_shape,
        include_top=spec.include_top,
        classes=spec.classes,
        pooling=spec.pooling,
    )
