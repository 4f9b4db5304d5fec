"""What a convex model with certified removal is made from."""

import math

from pydantic import Field

from lethe.recipes.closed_form import FrozenFeaturesParams
from lethe.recipes.spec import RecipeSpec


class ConvexParams(FrozenFeaturesParams):
    """Logistic regression with a random linear term in its loss (Guo et al. 2020, algorithm 1).

    More noise allows more removals and costs accuracy; so does more regularisation.

    Attributes:
        l2: weight lambda of (lambda / 2) |w|^2, for each record.
        noise: standard deviation sigma of each entry of the perturbation b, in units of the
            gradient of the summed loss.
        epsilon, delta: of the certified removal, for all classes and all removals together.
    """

    l2: float = Field(default=1e-3, ge=1e-6, le=1e3)
    noise: float = Field(default=1.0, gt=0, le=1e6)
    epsilon: float = Field(default=1.0, gt=0, le=1)
    delta: float = Field(default=1e-5, gt=0, le=0.1)

    @property
    def budget(self) -> float:
        """Largest norm of the gradient residual that the noise covers: sigma epsilon / c.

        delta = 1.5 exp(-c^2 / 2) (Guo et al. 2020, arXiv 1911.03030, theorem 3).
        """
        return self.noise * self.epsilon / math.sqrt(2 * math.log(1.5 / self.delta))


SPEC = RecipeSpec(
    name="convex",
    version=1,
    params=ConvexParams,
    offers=lambda _: frozenset({"checkpoints", "hessian"}),
    implementation="workers.recipes.convex:make_convex",
)
