"""The approximate methods that disturb, edit or move weights as a whole: takes, needs and costs."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from lethe.methods.spec import ByDefault, DescentParams, GuardParams, MethodSpec, Need, Setting


class RoundParams(DescentParams):
    """Rounds of a disturbance and a recovery; `max_steps` counts the rounds.

    Attributes:
        recovery_steps: steps of descent on the retain set in each round.
    """

    learning_rate: float = Field(default=1e-3, gt=0, le=10, allow_inf_nan=False)
    max_steps: int = Field(default=30, ge=1, le=100_000)
    recovery_steps: int = Field(default=20, ge=1, le=100_000)
    unmeasured_steps: int = Field(default=0, ge=0, le=1000)


class DistillParams(RoundParams):
    """How much to disturb, and how to recover.

    Attributes:
        noise: share of every weight matrix that a round replaces by a fresh initialisation; the
            paper's alpha.
        temperature: softens both distributions of the distillation.
    """

    noise: float = Field(default=0.1, gt=0, le=1, allow_inf_nan=False)
    temperature: float = Field(default=1.0, gt=0, le=100, allow_inf_nan=False)


class NoiseAndPruneParams(RoundParams):
    """How much to disturb and to prune.

    Attributes:
        sparsity: share of every weight matrix that is pruned in the last round; the rounds before
            rise to it in equal parts.
        noise: standard deviation of the Gaussian noise of a round, as a share of the root mean
            square of the matrix that it is added to.
    """

    sparsity: float = Field(default=0.5, ge=0, lt=1, allow_inf_nan=False)
    noise: float = Field(default=0.1, ge=0, le=10, allow_inf_nan=False)


class ImpairRepairParams(RoundParams):
    """How much to impair, and how to repair.

    Attributes:
        impair_steps: steps of ascent on the forget set in each round.
        impair_rate: learning rate of those steps; that of the repair is `learning_rate`.
    """

    batch_size: int = Field(default=16, ge=1, le=65_536)
    recovery_steps: int = Field(default=30, ge=1, le=100_000)
    impair_steps: int = Field(default=3, ge=1, le=100_000)
    impair_rate: float = Field(default=3e-4, gt=0, le=10, allow_inf_nan=False)


class TaskVectorParams(DescentParams):
    """How to find the task vector, and how far to go against it.

    `max_steps` counts the steps of fine-tuning on the forget set that find it.

    Attributes:
        alpha: how many times the task vector is subtracted.
    """

    max_steps: int = Field(default=20, ge=1, le=100_000)
    alpha: float = Field(default=5.0, gt=0, le=1e6, allow_inf_nan=False)


class InfluenceParams(GuardParams):
    """Which curvature to invert, how, and how far to go.

    Attributes:
        curvature: gauss_newton: never negative, for any model. hessian: exact, for models near a
            convex minimum.
        damping: added to the curvature's diagonal.
        iterations: of conjugate gradients, at most.
        preconditioner: ekfac takes fewer iterations where linear layers hold most weights.
        scale: how many times the step is taken; 1 is the estimate of retraining.
    """

    curvature: Literal["gauss_newton", "hessian"] = "gauss_newton"
    damping: float = Field(default=1e-2, gt=0, le=1e6, allow_inf_nan=False)
    iterations: int = Field(default=20, ge=1, le=10_000)
    preconditioner: Literal["none", "ekfac"] = "none"
    scale: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)


class LocalisedAblationParams(GuardParams):
    """How many units to ablate.

    Attributes:
        largest_share: of all neurons and heads, in (0, 1], that may be ablated.
        units_per_step: neurons or heads ablated between two measurements.
    """

    largest_share: float = Field(default=0.2, gt=0, le=1, allow_inf_nan=False)
    units_per_step: int = Field(default=1, ge=1, le=65_536)


class ModelEditParams(GuardParams):
    """Where to edit, and how.

    Attributes:
        layer: the down projection of an MLP by its name in the model, such as
            transformer.h.5.mlp.c_proj.
        edit: rome: the keys get their values exactly. memit: as close as the retain set's keys,
            weighted by `retain_weight`, allow.
        place: the prediction, from 0 at the start of a record, whose key is edited: the last token
            of the fact's subject; a shorter record gives its last. None: all predictions.
        retain_weight: the paper's lambda, for memit.
        value_steps: steps that find a value.
        value_rate: learning rate of those steps.
        largest_change: length of a change of value, at most, in lengths of the value.
    """

    layer: str
    edit: Literal["rome", "memit"] = "memit"
    place: int | None = Field(default=None, ge=0, le=1_000_000)
    retain_weight: float = Field(default=100.0, gt=0, le=1e9, allow_inf_nan=False)
    value_steps: int = Field(default=25, ge=1, le=10_000)
    value_rate: float = Field(default=0.5, gt=0, le=100, allow_inf_nan=False)
    largest_change: float = Field(default=2.0, gt=0, le=1e30, allow_inf_nan=False)


SAMPLE_RECORDS = 512
"""Records of a set that curvature, attribution and keys are taken from; a larger set is sampled."""

_NEEDS: frozenset[Need] = frozenset({"forget", "retain", "holdout", "weights", "gradients"})
_EVIDENCE = ("forget_loss", "loss_membership", "tail")
_REFUSED = "Nothing known to forget, no holdout, or policy asks for more than approximate."


def _rounds(params: RoundParams) -> Callable[[Setting], float]:
    def passes(_setting: Setting) -> float:
        return float(params.max_steps * params.recovery_steps * params.batch_size)

    return passes


def _tuning(_setting: Setting) -> float:
    params = TaskVectorParams()
    return float(params.max_steps * params.batch_size)


def _products(setting: Setting) -> float:
    # A product with the curvature runs a record forward once and backward three times.
    sample = min(SAMPLE_RECORDS, setting.records)
    return 2.0 * InfluenceParams().iterations * sample + setting.forget


def _attribution(setting: Setting) -> float:
    return 2.0 * min(SAMPLE_RECORDS, setting.records)


def _values(setting: Setting) -> float:
    steps = ModelEditParams(layer="any").value_steps
    return float(min(SAMPLE_RECORDS, setting.records) + steps * setting.forget)


def _spec(
    name: str,
    params: type[GuardParams],
    record_passes: Callable[[Setting], float],
    implementation: str,
    summary: str,
    cost: str,
    needs: frozenset[Need] = _NEEDS,
    refused: str = _REFUSED,
    *,
    by_default: ByDefault = "named",
) -> MethodSpec:
    return MethodSpec(
        name=name,
        version=1,
        guarantee="approximate",
        requires=needs,
        params=params,
        record_passes=record_passes,
        evidence=_EVIDENCE,
        summary=summary,
        cost=cost,
        refused=refused,
        way="steps",
        implementation=implementation,
        by_default=by_default,
    )


SPECS: tuple[MethodSpec, ...] = (
    _spec(
        "distill",
        DistillParams,
        _rounds(DistillParams()),
        "workers.unlearn.distill:distill",
        "Mixes noise into the weights, then teaches them what the model said of the retain set.",
        "In each round a recovery of several steps on the retain set; its predictions are kept.",
    ),
    _spec(
        "noise_and_prune",
        NoiseAndPruneParams,
        _rounds(NoiseAndPruneParams()),
        "workers.unlearn.noise_and_prune:noise_and_prune",
        "Prunes small weights, disturbs the others, and trains on with the retain set.",
        "In each round a recovery of several steps on the retain set.",
    ),
    _spec(
        "impair_repair",
        ImpairRepairParams,
        _rounds(ImpairRepairParams()),
        "workers.unlearn.impair_repair:impair_repair",
        "Ascends on the forget set for a few rough steps, then repairs with the retain set.",
        "In each round a few steps on the forget set and several on the retain set.",
        by_default="text",
    ),
    _spec(
        "task_vector",
        TaskVectorParams,
        _tuning,
        "workers.unlearn.task_vector:task_vector",
        "Learns the forget set a little more, and goes the opposite way.",
        "A few steps of training on the forget set, and a copy of the weights on the CPU.",
    ),
    _spec(
        "influence",
        InfluenceParams,
        _products,
        "workers.unlearn.influence:influence",
        "Takes the step of Newton that leaving the forget set out of a convex loss would take.",
        "One product with the curvature of a sample of the retain set per iteration.",
    ),
    _spec(
        "localised_ablation",
        LocalisedAblationParams,
        _attribution,
        "workers.unlearn.localised_ablation:localised_ablation",
        "Cuts off the neurons and heads that carry the forget set more than the retain set.",
        "One pass with gradients over a sample of both sets, then measurements only.",
        needs=_NEEDS | {"layers"},
        refused=_REFUSED + " The model has no neurons or heads that can be told apart.",
    ),
    _spec(
        "model_edit",
        ModelEditParams,
        _values,
        "workers.unlearn.model_edit:model_edit",
        "Edits one MLP in closed form, so that the forget set's keys lead elsewhere; for facts.",
        "One pass over a sample of the retain set, and several over the forget set.",
        needs=_NEEDS | {"layers", "text"},
    ),
)
