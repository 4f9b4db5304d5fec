"""What a classifier over numbers is made from."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lethe.recipes.spec import RecipeSpec
from lethe.recipes.training import TrainingParams

Width = Annotated[int, Field(ge=1, le=65_536)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ImageColumns(BaseModel):
    """Where an image's pixels are, in the order channel, row, column.

    Either `column`, holding a list of all pixels, or `prefix`, for <prefix>0, <prefix>1 and so on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None = None
    prefix: str | None = None
    height: Width
    width: Width
    channels: Width = 1

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.column is None) == (self.prefix is None):
            raise ValueError("an image needs either column or prefix")
        return self

    @property
    def pixels(self) -> int:
        """Number of values of one image."""
        return self.height * self.width * self.channels


class ClassifierParams(BaseModel):
    """What a classifier is made from; an input x enters the network as (x - offset) / scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] | None = Field(default=None, min_length=1)
    image: ImageColumns | None = None
    label: str
    classes: int = Field(ge=2, le=100_000)
    network: Literal["mlp", "cnn"] = "mlp"
    hidden: tuple[Width, ...] = (64,)
    channels: tuple[Width, ...] = (16, 32)
    offset: Number | tuple[Number, ...] = 0.0
    scale: Positive | tuple[Positive, ...] = 1.0
    training: TrainingParams = TrainingParams()

    @model_validator(mode="after")
    def _inputs_fit(self) -> Self:
        if (self.features is None) == (self.image is None):
            raise ValueError("a classifier needs either features or image")
        if self.network == "cnn" and self.image is None:
            raise ValueError("network cnn needs image; use mlp for features")
        for constant in (self.offset, self.scale):
            if isinstance(constant, tuple) and len(constant) != self.inputs:
                raise ValueError(
                    f"offset and scale need one number, or one per input ({self.inputs})"
                )
        return self

    @property
    def inputs(self) -> int:
        """Number of values that describe one record."""
        return self.image.pixels if self.image else len(self.features or ())

    def column_of(self, i: int) -> str:
        """Name the column of input i."""
        if self.image is None:
            return (self.features or ())[i]
        return self.image.column or f"{self.image.prefix}{i}"


SPEC = RecipeSpec(
    name="classifier",
    version=1,
    params=ClassifierParams,
    offers=lambda _: frozenset({"gradients", "checkpoints", "layers"}),
    implementation="workers.recipes.classifier:Classifier",
)
