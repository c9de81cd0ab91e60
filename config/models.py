"""The catalogue of models: a name in, a ModelSpec out (pixels to network input, published accuracy), without Keras.

Both sides need it: the producer to refuse an unknown model and to describe a run, the workers to preprocess.
A model of keras.applications is one row of the table; workers/cnn/registry.py adds the builders.

Figures: parameters and accuracies (percent, ImageNet validation) of the Keras models as keras.io/api/applications
prints them; EfficientNet-Lite0 as its README in tensorflow/tpu does, which names no top-5.
"""

import difflib
import hashlib
import json
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, PositiveInt, StringConstraints

from config.errors import UnknownModel

ColorOrder = Literal["RGB", "BGR"]
ExifPolicy = Literal["upright", "ignore"]
Resize = Literal["crop", "squash"]
ResizeFilter = Literal["bicubic", "bilinear"]
ScalingName = Literal["caffe", "tf", "torch", "lite", "none"]

#: What every ImageNet network was evaluated with: the shorter side to 256 for a crop of 224.
CROP_RATIO = 256 / 224

#: A model that is not close to the name asked for is no help as a suggestion.
SUGGESTION_CUTOFF = 0.5


class Scaling(NamedTuple):
    """Pixels 0..255 to network input: channels in color_order, then (pixel - mean) / std for each channel."""

    color_order: ColorOrder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


#: "caffe", "tf" and "torch" are the three modes of keras.applications.imagenet_utils.preprocess_input; "none" is for
#: networks that scale inside themselves; "lite" is EfficientNet-Lite's.
SCALINGS: dict[ScalingName, Scaling] = {
    "caffe": Scaling("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "tf": Scaling("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "torch": Scaling("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "lite": Scaling("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    "none": Scaling("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class ModelSpec(BaseModel):
    """One model: how its pixels are prepared, how large it is, how good it is said to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Part of file names, so without separators.
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,79}$")]
    input_size: PositiveInt
    scaling: ScalingName
    resize: Resize = "crop"
    resize_filter: ResizeFilter = "bilinear"
    exif: ExifPolicy = "upright"
    default_weights: Literal["imagenet", "packaged"] = "imagenet"
    classes: PositiveInt = 1000
    parameters: PositiveInt | None = None
    top1: float | None = None
    top5: float | None = None

    @property
    def resize_side(self) -> int:
        """Pixels of the shorter side before the centre crop; 224 -> 256, 299 -> 342."""
        return round(self.input_size * CROP_RATIO)

    @property
    def preprocess_digest(self) -> str:
        """sha256 (hex) over all that decides which numbers a network sees for an image, and over nothing else."""
        decisive = {
            "exif": self.exif,
            "input_size": self.input_size,
            "resize": self.resize,
            "resize_filter": self.resize_filter,
            # The ratio and the figures, not the scaling's name: a corrected constant is another preprocessing.
            "resize_side": self.resize_side if self.resize == "crop" else self.input_size,
            "scaling": SCALINGS[self.scaling]._asdict(),
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


#: Every known model by name; one more model of keras.applications is one more row.
MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="efficientnet_lite0",
            input_size=224,
            scaling="lite",
            resize_filter="bicubic",
            default_weights="packaged",
            parameters=4_694_024,
            top1=75.1,
        ),
        ModelSpec(name="vgg19", input_size=224, scaling="caffe", parameters=143_667_240, top1=71.3, top5=90.0),
        ModelSpec(name="resnet50", input_size=224, scaling="caffe", parameters=25_636_712, top1=74.9, top5=92.1),
        ModelSpec(name="inception_v3", input_size=299, scaling="tf", parameters=23_851_784, top1=77.9, top5=93.7),
    )
}


def find_model(name: str) -> ModelSpec:
    """The model of this name; UnknownModel, with the nearest names, where there is none."""
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name.lower(), MODELS, n=3, cutoff=SUGGESTION_CUTOFF)
    offer = f"did you mean {' or '.join(near)}?" if near else f"known models: {', '.join(sorted(MODELS))}"
    raise UnknownModel(f"unknown model {name!r}: {offer}")
