"""Own models: the JSON beside a .keras file in, its classes and preprocessing out, and back; without Keras.

`s3://bucket/birds.keras` has its JSON at `s3://bucket/birds.json`. docs/models.md tells each of its fields; fine_tune
writes such a pair.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from config.classes import IMAGENET_CLASSES, Label, imagenet_labels
from config.errors import ContractError
from config.messages import describe
from config.models import (
    SCALINGS,
    ColorOrder,
    Divisor,
    ExifPolicy,
    ModelSpec,
    Resize,
    ResizeFilter,
    Scaling,
    ScalingName,
    Side,
)

#: What the file of a network ends in, and what the JSON beside it ends in.
KERAS, JSON = ".keras", ".json"

#: Bytes of the JSON at most; 20,000 classes with ids and names take 1 MB.
MAX_JSON_BYTES = 8 * 2**20

#: In place of a list of classes: the thousand of ImageNet in their usual order.
IMAGENET = "imagenet"

#: Characters of a model's name, which is part of file names.
MAX_NAME = 80

#: What a model is called whose file's name has no letter or digit.
NO_NAME = "own_model"

Word = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class _Part(BaseModel):
    """Frozen, and closed to fields that do not exist."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class OwnClass(_Part):
    """One class of a network: what rows call class_id and class_name. A JSON may say "bird" for both."""

    id: Word
    name: Word

    @model_validator(mode="before")
    @classmethod
    def _one_word_for_both(cls, given: Any) -> Any:
        return {"id": given, "name": given} if isinstance(given, str) else given


class OwnScaling(_Part):
    """(pixel - mean) / std for each channel, in the order of color_order; pixels are 0 to 255."""

    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[Divisor, Divisor, Divisor]


def _form(given: Any) -> str:
    """Which of two ways something is written in, so that a complaint is about that one."""
    return "name" if isinstance(given, str) else "list"


#: In the order of the network's scores.
Classes = Annotated[
    Annotated[Literal["imagenet"], Tag("name")] | Annotated[tuple[OwnClass, ...], Field(min_length=1), Tag("list")],
    Discriminator(_form),
]
ScalingGiven = Annotated[
    Annotated[ScalingName, Tag("name")] | Annotated[OwnScaling, Tag("list")],
    Discriminator(_form),
]


class OwnModel(_Part):
    """What a .keras file cannot say of itself: the names of its classes, and how its pixels are to be prepared."""

    version: Literal[1] = Field(default=1, alias="pixelherd_model")
    classes: Classes
    #: Height and width in pixels.
    input_size: tuple[Side, Side]
    resize: Resize = "crop"
    resize_filter: ResizeFilter = "bilinear"
    #: None: that of a scaling by name, and RGB where figures are given.
    color_order: ColorOrder | None = None
    scaling: ScalingGiven
    exif: ExifPolicy = "upright"
    #: For people: whatever they want to remember of the model.
    note: str = ""

    @model_validator(mode="after")
    def _is_of_one_mind(self) -> Self:
        if not isinstance(self.scaling, OwnScaling):
            order = SCALINGS[self.scaling].color_order
            if self.color_order not in (None, order):
                raise ValueError(
                    f"color_order {self.color_order} contradicts scaling {self.scaling}, which is {order}: "
                    "write the scaling as mean and std"
                )
        if not isinstance(self.classes, str):
            twice = [word for word, count in Counter(found.id for found in self.classes).items() if count > 1]
            if twice:
                raise ValueError(f"classes name {', '.join(map(repr, twice[:3]))} twice; an id stands for one class")
        return self

    @classmethod
    def of(cls, spec: ModelSpec, classes: Sequence[OwnClass], note: str = "") -> Self:
        """What is to be written beside a network that was trained on the pixels of `spec`."""
        figures = spec.figures
        return cls(
            classes=tuple(classes),
            input_size=(spec.height, spec.width),
            resize=spec.resize,
            resize_filter=spec.resize_filter,
            color_order=figures.color_order,
            scaling=OwnScaling(mean=figures.mean, std=figures.std) if spec.scaling is figures else spec.scaling,
            exif=spec.exif,
            note=note,
        )

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Read the JSON; ContractError names all that is wrong with it in one line."""
        if len(body) > MAX_JSON_BYTES:
            raise ContractError(f"{len(body)} bytes, {MAX_JSON_BYTES} are allowed")
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise ContractError(_complaints(error)) from error

    def to_json(self) -> bytes:
        """The JSON, a field on each line; `from_json` gives the same value."""
        return _lines(self.model_dump(mode="json", by_alias=True, exclude_none=True)).encode()

    @property
    def count(self) -> int:
        """How many classes there are."""
        return IMAGENET_CLASSES if isinstance(self.classes, str) else len(self.classes)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The classes, in the order of the network's scores."""
        if isinstance(self.classes, str):
            return imagenet_labels()
        return tuple(Label(found.id, found.name) for found in self.classes)

    def to_spec(self, name: str) -> ModelSpec:
        """The model as a row of the catalogue would say it."""
        height, width = self.input_size
        scaling: ScalingName | Scaling
        if isinstance(self.scaling, OwnScaling):
            order = self.color_order or "RGB"
            scaling = Scaling(color_order=order, mean=self.scaling.mean, std=self.scaling.std)
        else:
            scaling = self.scaling
        return ModelSpec(
            name=name,
            input_size=height,
            input_width=None if width == height else width,
            scaling=scaling,
            resize=self.resize,
            resize_filter=self.resize_filter,
            exif=self.exif,
            default_weights="file",
            classes=self.count,
        )


def is_own_model(model: str) -> bool:
    """Whether a model is given as the address of a file, and not by the name of a known one."""
    return "://" in model


def json_uri(uri: str) -> str:
    """Where the JSON of a .keras file lies: beside it, under the same name."""
    return uri.removesuffix(KERAS) + JSON


def own_name(uri: str) -> str:
    """What the model of a .keras file is called: s3://bucket/My birds.keras -> my_birds."""
    plain = unquote(uri) if uri.startswith("file:") else uri
    stem = plain.removesuffix(KERAS).rpartition("/")[2]
    return re.sub("[^a-z0-9]+", "_", stem.lower()).strip("_")[:MAX_NAME].strip("_") or NO_NAME


def template(size: tuple[int, int] | None, classes: int | None) -> str:
    """A JSON to fill in, with as much of it as is known of the network."""
    names = [f"name of class {number}" for number in range(classes or 3)]
    model = {
        "pixelherd_model": 1,
        "classes": IMAGENET if classes == IMAGENET_CLASSES else names,
        "input_size": size or (224, 224),
        "resize": "crop",
        "resize_filter": "bilinear",
        "color_order": "RGB",
        "scaling": {"mean": [127.5, 127.5, 127.5], "std": [127.5, 127.5, 127.5]},
        "exif": "upright",
    }
    return _lines(model)


def _lines(fields: dict[str, Any]) -> str:
    """JSON with a field on each line: lists of numbers one below the other help nobody."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _complaints(error: ValidationError) -> str:
    """Without the names of the forms, which are ours and stand in no file."""
    text = re.sub(r"\b(classes|scaling)\.(?:list|name)\b", r"\1", describe(error))
    return text.replace("message: ", "").replace("Value error, ", "")
