"""What a model solved in closed form is made from, and the frozen features that it stands on."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lethe.recipes.classifier import ClassifierParams, ImageColumns, Number, Positive
from lethe.recipes.spec import RecipeSpec


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

    An input x counts as (x - offset) / scale. Without `fourier` the inputs are the features. One
    constant feature comes last in either case, so that a model needs no intercept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] | None = Field(default=None, min_length=1)
    image: ImageColumns | None = None
    label: str
    classes: int = Field(ge=2, le=1000)
    offset: Number | tuple[Number, ...] = 0.0
    scale: Positive | tuple[Positive, ...] = 1.0
    fourier: FourierFeatures | None = None

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        _ = self.columns
        return self

    @property
    def columns(self) -> ClassifierParams:
        """The same columns as the recipe `classifier` names them, which reads them."""
        return ClassifierParams(
            features=self.features,
            image=self.image,
            label=self.label,
            classes=self.classes,
            offset=self.offset,
            scale=self.scale,
        )

    @property
    def width(self) -> int:
        """Number of features, the constant one included."""
        return 1 + (self.columns.inputs if self.fourier is None else self.fourier.width)


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
    implementation="workers.recipes.closed_form:ClosedForm",
)
