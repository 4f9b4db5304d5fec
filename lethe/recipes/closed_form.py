"""What a model solved in closed form is made from, and the frozen features that it stands on."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lethe.recipes.classifier import ClassifierParams, ImageColumns, Number, Positive
from lethe.recipes.spec import RecipeSpec
from lethe.recipes.transformer import FrozenBackbone


class FourierFeatures(BaseModel):
    """Random Fourier features (Rahimi and Recht 2007, algorithm 1), drawn from a public seed.

    Their inner products approach the kernel exp(-|x - x'|^2 / (2 length_scale^2)).

    Attributes:
        length_scale: in units of the inputs after offset and scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=1024, ge=1, le=16_384)
    length_scale: float = Field(default=3.0, ge=0.01, le=1e6)
    seed: int = Field(default=0, ge=0, lt=2**63)


class FrozenFeaturesParams(BaseModel):
    """How a record becomes features that no training ever changes.

    An input x counts as (x - offset) / scale; of a text the inputs are what the frozen backbone
    makes of it, which comes scaled. Without `fourier` the inputs are the features. One constant
    feature comes last in either case, so that a model needs no intercept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] | None = Field(default=None, min_length=1)
    image: ImageColumns | None = None
    text: FrozenBackbone | None = None
    label: str
    classes: int = Field(ge=2, le=1000)
    offset: Number | tuple[Number, ...] = 0.0
    scale: Positive | tuple[Positive, ...] = 1.0
    fourier: FourierFeatures | None = None

    @model_validator(mode="after")
    def _inputs_fit(self) -> Self:
        if [self.features, self.image, self.text].count(None) != 2:
            raise ValueError("frozen features need exactly one of features, image and text")
        if self.text is None:
            _ = self.columns
        elif (self.offset, self.scale) != (0.0, 1.0):
            raise ValueError("offset and scale are for numbers: what is made of a text is scaled")
        return self

    @property
    def columns(self) -> ClassifierParams:
        """The same columns as the recipe `classifier` names them, which reads them.

        Raises:
            ValueError: a text is read instead.
        """
        return ClassifierParams(
            features=self.features,
            image=self.image,
            label=self.label,
            classes=self.classes,
            offset=self.offset,
            scale=self.scale,
        )

    @property
    def inputs(self) -> int:
        """Number of values that describe one record."""
        return self.columns.inputs if self.text is None else self.text.width

    @property
    def width(self) -> int:
        """Number of features, the constant one included."""
        return 1 + (self.inputs if self.fourier is None else self.fourier.width)


class ClosedFormParams(FrozenFeaturesParams):
    """A ridge or least-squares head on frozen features.

    Attributes:
        ridge: weight of the squared weights beside the sum of squared errors; 0 for the least
            squares of the smallest weights.
        temperature: probabilities are softmax(scores / temperature). Fixed and public: fitted to
            records, it would be one more artifact to erase from.
    """

    ridge: float = Field(default=1.0, ge=0, le=1e9)
    temperature: float = Field(default=0.1, gt=0, le=1e3)


SPEC = RecipeSpec(
    name="closed_form",
    version=1,
    params=ClosedFormParams,
    offers=lambda _: frozenset({"checkpoints", "gram"}),
    implementation="workers.recipes.closed_form:make_closed_form",
)
