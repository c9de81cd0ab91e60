"""The catalogue of models: a name in, a ModelSpec out (pixels to network input, published accuracy), without Keras.

Both sides need it: the producer to refuse an unknown model and to describe a run, the workers to preprocess.
A model of keras.applications is one row of the table; workers/cnn/registry.py adds the builders.

Figures: parameters are what keras.applications 3.15 builds. Accuracies (percent, ImageNet validation) are those of
the table in keras.io/api/applications; for MobileNetV3 of the table in its docstring in keras.applications, and for
EfficientNet-Lite0 of its README in tensorflow/tpu, which both name no top-5. None is where no such source was at hand.
"""

import difflib
import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, StringConstraints

from config.errors import UnknownModel

ColorOrder = Literal["RGB", "BGR"]
ExifPolicy = Literal["upright", "ignore"]
Resize = Literal["crop", "squash"]
ResizeFilter = Literal["bicubic", "bilinear"]
Pooling = Literal["avg", "max"]
ScalingName = Literal["caffe", "tf", "torch", "lite", "none"]

#: What every ImageNet network was evaluated with: the shorter side to 256 for a crop of 224.
CROP_RATIO = 256 / 224

#: A model that is not close to the name asked for is no help as a suggestion.
SUGGESTION_CUTOFF = 0.5


#: Pixels of an input's side at most: what a worker decodes for each image is bounded.
MAX_SIDE = 4_096

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Divisor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Scaling(BaseModel):
    """Pixels 0..255 to network input: channels in color_order, then (pixel - mean) / std for each channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    color_order: ColorOrder
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[Divisor, Divisor, Divisor]


def _scaling(color_order: ColorOrder, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Scaling:
    return Scaling(color_order=color_order, mean=mean, std=std)


#: "caffe", "tf" and "torch" are the three modes of keras.applications.imagenet_utils.preprocess_input; "none" is for
#: networks that scale inside themselves; "lite" is EfficientNet-Lite's.
SCALINGS: dict[ScalingName, Scaling] = {
    "caffe": _scaling("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "tf": _scaling("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "torch": _scaling("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "lite": _scaling("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    "none": _scaling("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class ModelSpec(BaseModel):
    """One model: how its pixels are prepared, how large it is, how good it is said to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Part of file names, so without separators.
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,79}$")]
    #: Pixels of the input's height, and of its width too where input_width does not say otherwise.
    input_size: Side
    input_width: Side | None = None
    scaling: ScalingName | Scaling
    resize: Resize = "crop"
    resize_filter: ResizeFilter = "bilinear"
    exif: ExifPolicy = "upright"
    default_weights: Literal["imagenet", "packaged", "file"] = "imagenet"
    #: Without its top a network has no classes, and ends with what `pooling` makes of its last layer.
    include_top: bool = True
    pooling: Pooling | None = None
    classes: PositiveInt = 1000
    parameters: PositiveInt | None = None
    top1: float | None = None
    top5: float | None = None

    @property
    def height(self) -> int:
        return self.input_size

    @property
    def width(self) -> int:
        return self.input_size if self.input_width is None else self.input_width

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels: what Keras calls so."""
        return self.height, self.width, 3

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width that an image must cover before the centre is cut out of it."""
        return round(self.height * CROP_RATIO), round(self.width * CROP_RATIO)

    @property
    def resize_side(self) -> int:
        """Pixels of the shorter side before the centre crop, of a square input; 224 -> 256, 299 -> 342."""
        return self.covered[0]

    @property
    def figures(self) -> Scaling:
        """The figures of the scaling, whether it goes by a name or not."""
        return self.scaling if isinstance(self.scaling, Scaling) else SCALINGS[self.scaling]

    @property
    def preprocess_digest(self) -> str:
        """sha256 (hex) over all that decides which numbers a network sees for an image, and over nothing else."""
        size, side = (self.height, self.width), self.covered if self.resize == "crop" else (self.height, self.width)
        decisive = {
            "exif": self.exif,
            "input_size": _one_if_square(size),
            "resize": self.resize,
            "resize_filter": self.resize_filter,
            # The ratio and the figures, not the scaling's name: a corrected constant is another preprocessing.
            "resize_side": _one_if_square(side),
            "scaling": self.figures.model_dump(),
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _one_if_square(sides: tuple[int, int]) -> int | tuple[int, int]:
    return sides[0] if sides[0] == sides[1] else sides


#: Every known model by name: all of keras.applications, and what has a builder of its own. One more is one more row.
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
        ModelSpec(name="convnext_tiny", input_size=224, scaling="none", parameters=28_589_128),
        ModelSpec(name="convnext_small", input_size=224, scaling="none", parameters=50_223_688),
        ModelSpec(name="convnext_base", input_size=224, scaling="none", parameters=88_591_464),
        ModelSpec(name="convnext_large", input_size=224, scaling="none", parameters=197_767_336),
        ModelSpec(name="convnext_xlarge", input_size=224, scaling="none", parameters=350_196_968),
        ModelSpec(name="densenet121", input_size=224, scaling="torch", parameters=8_062_504, top1=75.0, top5=92.3),
        ModelSpec(name="densenet169", input_size=224, scaling="torch", parameters=14_307_880, top1=76.2, top5=93.2),
        ModelSpec(name="densenet201", input_size=224, scaling="torch", parameters=20_242_984, top1=77.3, top5=93.6),
        ModelSpec(name="efficientnet_b0", input_size=224, scaling="none", parameters=5_330_571, top1=77.1, top5=93.3),
        ModelSpec(name="efficientnet_b1", input_size=240, scaling="none", parameters=7_856_239, top1=79.1, top5=94.4),
        ModelSpec(name="efficientnet_b2", input_size=260, scaling="none", parameters=9_177_569, top1=80.1, top5=94.9),
        ModelSpec(name="efficientnet_b3", input_size=300, scaling="none", parameters=12_320_535, top1=81.6, top5=95.7),
        ModelSpec(name="efficientnet_b4", input_size=380, scaling="none", parameters=19_466_823, top1=82.9, top5=96.4),
        ModelSpec(name="efficientnet_b5", input_size=456, scaling="none", parameters=30_562_527, top1=83.6, top5=96.7),
        ModelSpec(name="efficientnet_b6", input_size=528, scaling="none", parameters=43_265_143, top1=84.0, top5=96.8),
        ModelSpec(name="efficientnet_b7", input_size=600, scaling="none", parameters=66_658_687, top1=84.3, top5=97.0),
        ModelSpec(
            name="efficientnet_v2_b0", input_size=224, scaling="none", parameters=7_200_312, top1=78.7, top5=94.3
        ),
        ModelSpec(
            name="efficientnet_v2_b1", input_size=240, scaling="none", parameters=8_212_124, top1=79.8, top5=95.0
        ),
        ModelSpec(
            name="efficientnet_v2_b2", input_size=260, scaling="none", parameters=10_178_374, top1=80.5, top5=95.1
        ),
        ModelSpec(
            name="efficientnet_v2_b3", input_size=300, scaling="none", parameters=14_467_622, top1=82.0, top5=95.8
        ),
        ModelSpec(
            name="efficientnet_v2_s", input_size=384, scaling="none", parameters=21_612_360, top1=83.9, top5=96.7
        ),
        ModelSpec(
            name="efficientnet_v2_m", input_size=480, scaling="none", parameters=54_431_388, top1=85.3, top5=97.4
        ),
        ModelSpec(
            name="efficientnet_v2_l", input_size=480, scaling="none", parameters=119_027_848, top1=85.7, top5=97.5
        ),
        ModelSpec(
            name="inception_resnet_v2", input_size=299, scaling="tf", parameters=55_873_736, top1=80.3, top5=95.3
        ),
        ModelSpec(name="inception_v3", input_size=299, scaling="tf", parameters=23_851_784, top1=77.9, top5=93.7),
        ModelSpec(name="mobilenet", input_size=224, scaling="tf", parameters=4_253_864, top1=70.4, top5=89.5),
        ModelSpec(name="mobilenet_v2", input_size=224, scaling="tf", parameters=3_538_984, top1=71.3, top5=90.1),
        ModelSpec(name="mobilenet_v3_small", input_size=224, scaling="none", parameters=2_554_968, top1=68.1),
        ModelSpec(name="mobilenet_v3_large", input_size=224, scaling="none", parameters=5_507_432, top1=75.6),
        ModelSpec(name="nasnet_mobile", input_size=224, scaling="tf", parameters=5_326_716, top1=74.4, top5=91.9),
        ModelSpec(name="nasnet_large", input_size=331, scaling="tf", parameters=88_949_818, top1=82.5, top5=96.0),
        ModelSpec(name="resnet50", input_size=224, scaling="caffe", parameters=25_636_712, top1=74.9, top5=92.1),
        ModelSpec(name="resnet101", input_size=224, scaling="caffe", parameters=44_707_176, top1=76.4, top5=92.8),
        ModelSpec(name="resnet152", input_size=224, scaling="caffe", parameters=60_419_944, top1=76.6, top5=93.1),
        ModelSpec(name="resnet50_v2", input_size=224, scaling="tf", parameters=25_613_800, top1=76.0, top5=93.0),
        ModelSpec(name="resnet101_v2", input_size=224, scaling="tf", parameters=44_675_560, top1=77.2, top5=93.8),
        ModelSpec(name="resnet152_v2", input_size=224, scaling="tf", parameters=60_380_648, top1=78.0, top5=94.2),
        ModelSpec(name="vgg16", input_size=224, scaling="caffe", parameters=138_357_544, top1=71.3, top5=90.1),
        ModelSpec(name="vgg19", input_size=224, scaling="caffe", parameters=143_667_240, top1=71.3, top5=90.0),
        ModelSpec(name="xception", input_size=299, scaling="tf", parameters=22_910_480, top1=79.0, top5=94.5),
    )
}


def find_model(name: str) -> ModelSpec:
    """The model of this name; UnknownModel, with the nearest names, where there is none."""
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name.lower(), MODELS, n=3, cutoff=SUGGESTION_CUTOFF)
    offer = f"did you mean {' or '.join(near)}?" if near else f"`pixelherd models` lists all {len(MODELS)}"
    raise UnknownModel(f"unknown model {name!r}: {offer}")
