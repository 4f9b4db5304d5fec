"""What gradient-boosted trees are made from."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lethe.recipes.spec import RecipeSpec

Category = str | int
Categories = Annotated[tuple[Category, ...], Field(min_length=1, max_length=65_536)]


class GbdtParams(BaseModel):
    """What gradient-boosted trees are made from.

    Attributes:
        features: columns of numbers.
        categories: columns of categories, each with all that it may hold. The lists are fixed and
            public: made from the records, they would hold their influence.
        classes: the label column holds a class from 0 to classes - 1.
        trees_per_slice: for each class; two classes share theirs.
        l2: weight of the squared leaf values, beside the sum of losses.
        min_leaf_hessian: smallest sum of second derivatives of the loss in a leaf.
        max_bins: most values by which a column of numbers is split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[str, ...] = ()
    categories: dict[str, Categories] = {}
    label: str
    classes: int = Field(ge=2, le=1000)
    trees_per_slice: int = Field(default=20, ge=1, le=10_000)
    max_depth: int = Field(default=6, ge=1, le=16)
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    l2: float = Field(default=1.0, ge=0, le=1e6)
    min_leaf_hessian: float = Field(default=1.0, ge=0, le=1e6)
    max_bins: int = Field(default=256, ge=2, le=65_536)

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if not self.columns:
            raise ValueError("trees need at least one column of numbers or of categories")
        if len({*self.columns, self.label}) != len(self.columns) + 1:
            raise ValueError("a column is named twice among features, categories and label")
        if any(len(set(values)) != len(values) for values in self.categories.values()):
            raise ValueError("a category is named twice in its column")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns but the label, in the order of a record's inputs.

        Columns of categories come by name, since the recipe's digest does not see their order.
        """
        return (*self.features, *sorted(self.categories))


SPEC = RecipeSpec(
    name="gbdt",
    version=1,
    params=GbdtParams,
    offers=lambda _: frozenset({"checkpoints"}),
    implementation="workers.recipes.gbdt:Gbdt",
)
