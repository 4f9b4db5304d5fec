"""Recipe `convex`: logistic regression whose records can be removed with a certificate.

Two classes make one regression, more make one against the rest for each. All of them together are
one strictly convex problem with one noise vector, so the budget is spent by the norm over all.

The certificate holds over the draw of the noise: whoever knows the model's seed can draw it again,
so the seed is to be kept as secret as the noise. It holds for requests that do not depend on the
weights served.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from lethe.recipes.convex import ConvexParams
from lethe.recipes.training import TrainingParams
from workers.recipes.closed_form import ONCE, FrozenFeatures, backbone_of, encode_frozen
from workers.recipes.one_prediction import OnePrediction
from workers.recipes.transformer import Backbone
from workers.unlearn.closed_form_head import UNIT
from workers.unlearn.newton_removal import Step, clip_rows, fit, removal_step, spectral_norm
from workers.unlearn.seeds import seed_for
from workers.unlearn.task import Examples, Removed, count, join


class ConvexModel(nn.Module):
    """The regressions, with what a removal needs to know of their past.

    Attributes:
        weights: (regressions, d) float64; one regression for two classes, else one per class.
        residuals: (regressions,) float64, what each one's gradient residual is at most.
        records: int64, the records that the weights stand on.
    """

    def __init__(self, params: ConvexParams) -> None:
        super().__init__()
        regressions = 1 if params.classes == 2 else params.classes
        self.features = FrozenFeatures(params)
        self.weights = nn.Parameter(torch.zeros(regressions, params.width, dtype=torch.float64))
        self.residuals: Tensor
        self.records: Tensor
        self.register_buffer("residuals", torch.zeros(regressions, dtype=torch.float64))
        self.register_buffer("records", torch.zeros((), dtype=torch.int64))

    def rows(self, x: Tensor) -> Tensor:
        """Inputs (n, inputs) to features of length at most 1: (n, d) float64."""
        return clip_rows(self.features(x).div(UNIT))

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, inputs) to the regressions' log odds: (n, regressions) float64."""
        return self.rows(x) @ self.weights.T


@dataclass(frozen=True)
class Convex(OnePrediction):
    """The regressions as a task; examples hold x (n, inputs) float32 and y (n,) int64.

    The backbone is as in `ClosedForm`.
    """

    params: ConvexParams
    backbone: Backbone | None = None

    @property
    def training(self) -> TrainingParams:
        """One fit."""
        return ONCE

    def build(self, seed: int) -> nn.Module:  # noqa: ARG002 - nothing is drawn from it
        """Make regressions of zeros; the noise is drawn when they learn."""
        return ConvexModel(self.params)

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into scaled inputs and labels.

        Raises:
            ValueError: as `encode_frozen`.
        """
        return encode_frozen(self.params, self.backbone, rows)

    @override
    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of the classes, as the one prediction per record: (n, 1, classes).

        Of more than two classes, the regressions' probabilities divided by their sum.
        """
        odds: Tensor = model(examples["x"])
        if self.params.classes == 2:
            odds = torch.cat([-odds, odds], dim=-1)
        return nn.functional.logsigmoid(odds).log_softmax(-1).unsqueeze(1)

    def learn(self, model: nn.Module, slices: Sequence[Examples], r: int, seed: str) -> None:
        """Fit the records of slices[: r + 1] from scratch, with noise drawn from the seed and r.

        The norm of the gradient that the fit leaves is counted as spent.
        """
        regressions, examples = _regressions(model), join(slices[: r + 1])
        if not count(examples):
            return
        x, targets = self._problem(regressions, examples)
        noise = perturbation(self.params, seed, r).to(x.device)
        fits = [fit(x, t, b, self.params.l2) for t, b in zip(targets, noise, strict=True)]
        _settle(regressions, fits, _residuals(fits), len(x))

    def remove(self, model: nn.Module, forget: Examples, retain: Examples) -> Removed:
        """Make one Newton step in each regression, unless the budget does not cover it.

        That the records were among those learned is for the caller to know.

        Raises:
            ValueError: the records to remove and to keep are not as many as were learned.
        """
        regressions = _regressions(model)
        if count(forget) + count(retain) != int(regressions.records):
            raise ValueError("records to remove and to keep are not all those that were learned")
        before, budget = float(regressions.residuals.norm()), self.params.budget
        if not count(retain):
            return Removed(False, before, budget, "no record would be left: retire the model")
        steps = self._steps(regressions, forget, retain)
        residuals = regressions.residuals.cpu() + _residuals(steps)
        spent = float(residuals.norm())
        if not math.isfinite(spent) or spent > budget:
            reason = f"a budget of {budget:.3g} does not cover {spent:.3g}: retrain the model"
            return Removed(False, before, budget, reason)
        _settle(regressions, steps, residuals, count(retain))
        reason = f"one Newton step; {spent:.3g} of a budget of {budget:.3g} is spent"
        return Removed(True, spent, budget, reason)

    def _problem(self, model: ConvexModel, examples: Examples) -> tuple[Tensor, Tensor]:
        device = model.weights.device
        labels = nn.functional.one_hot(examples["y"].to(device), self.params.classes)
        if self.params.classes == 2:
            labels = labels[:, 1:]
        return model.rows(examples["x"].to(device)), labels.T.to(torch.float64)

    def _steps(self, model: ConvexModel, forget: Examples, retain: Examples) -> list[Step]:
        (gone, gone_targets), (kept, kept_targets) = (
            self._problem(model, examples) for examples in (forget, retain)
        )
        spectral = spectral_norm(kept)
        return [
            removal_step(w, (gone, t_gone), (kept, t_kept), spectral, self.params.l2)
            for w, t_gone, t_kept in zip(
                model.weights.detach(), gone_targets, kept_targets, strict=True
            )
        ]


def make_convex(params: ConvexParams) -> Convex:
    """Bind the recipe to its parameters and load the backbone that they name, if any.

    Raises:
        FileNotFoundError, ValueError: as `make_backbone`.
    """
    return Convex(params, backbone_of(params))


def perturbation(params: ConvexParams, seed: str, r: int) -> Tensor:
    """The noise b that the fit after slice r is made with: (regressions, d) float64."""
    generator = torch.Generator().manual_seed(seed_for(seed, "perturbation", r))
    shape = (1 if params.classes == 2 else params.classes, params.width)
    return params.noise * torch.randn(shape, generator=generator, dtype=torch.float64)


def _regressions(model: nn.Module) -> ConvexModel:
    if not isinstance(model, ConvexModel):
        raise ValueError("the model is not one that this recipe has built")
    return model


def _residuals(steps: Sequence[Step]) -> Tensor:
    return torch.tensor([one.residual for one in steps], dtype=torch.float64)


def _settle(model: ConvexModel, steps: Sequence[Step], residuals: Tensor, records: int) -> None:
    with torch.no_grad():
        model.weights.copy_(torch.stack([one.weights for one in steps]))
    model.residuals.copy_(residuals)
    model.records.fill_(records)
