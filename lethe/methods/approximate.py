"""The approximate methods: what each takes, needs and costs."""

from typing import Literal

from pydantic import Field

from lethe.methods.spec import ByDefault, DescentParams, GuardParams, MethodSpec, Need, Setting


class GradientAscentParams(DescentParams):
    """How to ascend.

    Attributes:
        alpha: weight of the retain set's descent beside the forget set's ascent.
    """

    alpha: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)


class GradDiffParams(DescentParams):
    """How to weigh both sets.

    Attributes:
        gamma: weight of the forget set's ascent.
        alpha: weight of the retain set's term.
        retain_term: nll: its negative log likelihood. kl: how far the model's predictions on it
            are from what they were.
    """

    gamma: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    alpha: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)
    retain_term: Literal["nll", "kl"] = "nll"


class NpoParams(DescentParams):
    """How to weigh.

    Attributes:
        beta: inverse temperature; towards 0 the method becomes gradient ascent.
        gamma: weight of the forget set's term.
        alpha: weight of the retain set's descent.
    """

    beta: float = Field(default=0.1, gt=0, le=100, allow_inf_nan=False)
    gamma: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    alpha: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)


class SimNpoParams(DescentParams):
    """How to weigh.

    Attributes:
        beta: inverse temperature.
        delta: margin; the paper's gamma.
        gamma: weight of the forget set's term.
        alpha: weight of the retain set's descent.
    """

    beta: float = Field(default=4.5, gt=0, le=100, allow_inf_nan=False)
    delta: float = Field(default=0.0, ge=0, le=100, allow_inf_nan=False)
    gamma: float = Field(default=0.125, gt=0, le=1000, allow_inf_nan=False)
    alpha: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)


class ScrubParams(DescentParams):
    """How to weigh.

    Attributes:
        alpha: weight of the divergence from the teacher on the retain set.
        gamma: weight of the negative log likelihood on the retain set.
        temperature: softens both distributions.
    """

    learning_rate: float = Field(default=5e-4, gt=0, le=10, allow_inf_nan=False)
    alpha: float = Field(default=0.5, ge=0, le=1000, allow_inf_nan=False)
    gamma: float = Field(default=1.0, ge=0, le=1000, allow_inf_nan=False)
    temperature: float = Field(default=2.0, gt=0, le=100, allow_inf_nan=False)


class SsdParams(GuardParams):
    """What to dampen, and by how much.

    Attributes:
        alpha: a weight is selected where its importance to the forget set is over alpha times that
            to the retain set.
        dampening: the paper's lambda; a selected weight is multiplied by dampening times the ratio
            retain to forget, at most 1.
    """

    alpha: float = Field(default=10.0, gt=0, le=1e6, allow_inf_nan=False)
    dampening: float = Field(default=1.0, ge=0, le=1e6, allow_inf_nan=False)


class RmuParams(DescentParams):
    """Where and how far to lead.

    Attributes:
        layer: the module whose output is led, by its name in the model, such as transformer.h.5.
        steering: length of the vector that the forget set's activations are led to; the paper's c.
        alpha: weight of holding the retain set's activations.
        trained_layers: that many numbered layers are trained, the last of them the one named, and
            those before are run once per record; the paper trains 3. None: all up to the one named,
            and what feeds them.
        trained_modules: the only modules in them that are trained, such as mlp.down_proj in the
            paper; none named: all.
    """

    layer: str
    steering: float = Field(default=6.5, gt=0, le=1e30, allow_inf_nan=False)
    alpha: float = Field(default=1200.0, ge=0, le=1e6, allow_inf_nan=False)
    trained_layers: int | None = Field(default=None, ge=1)
    trained_modules: tuple[str, ...] = ()


class FineTuneParams(DescentParams):
    """How to train on: nothing beyond the steps."""


PASSES = 100
"""Passes over the forget set, each with as many retained records, before a method gives up."""

_NEEDS: frozenset[Need] = frozenset({"forget", "retain", "holdout", "weights", "gradients"})
_EVIDENCE = ("forget_loss", "loss_membership", "tail")
_REFUSED = "Nothing known to forget, no holdout, or policy asks for more than approximate."


def _passes(setting: Setting) -> float:
    return 2.0 * PASSES * setting.forget


def _spec(
    name: str,
    params: type[GuardParams],
    implementation: str,
    summary: str,
    cost: str,
    *,
    needs: frozenset[Need] = _NEEDS,
    by_default: ByDefault = "named",
) -> MethodSpec:
    return MethodSpec(
        name=name,
        version=2,
        guarantee="approximate",
        requires=needs,
        params=params,
        record_passes=_passes,
        evidence=_EVIDENCE,
        summary=summary,
        cost=cost,
        refused=_REFUSED,
        way="steps",
        implementation=implementation,
        by_default=by_default,
    )


SPECS: tuple[MethodSpec, ...] = (
    _spec(
        "gradient_ascent",
        GradientAscentParams,
        "workers.unlearn.gradient_ascent:ascent",
        "Raises the loss on the forget set and lowers it on the retain set.",
        "One forward and backward pass over both batches per step.",
        by_default="other",
    ),
    _spec(
        "grad_diff",
        GradDiffParams,
        "workers.unlearn.grad_diff:grad_diff",
        "Weighs both sets, or keeps the predictions on the retain set as they were.",
        "As gradient ascent; with kl the predictions on the retain set are asked for once.",
    ),
    _spec(
        "npo",
        NpoParams,
        "workers.unlearn.npo:npo",
        "Ascends on the forget set ever more slowly as its records are forgotten.",
        "As gradient ascent, and one pass over the forget set for one number per record.",
    ),
    _spec(
        "simnpo",
        SimNpoParams,
        "workers.unlearn.simnpo:simnpo",
        "Ascends on the forget set where its loss per prediction is still low.",
        "As gradient ascent.",
    ),
    _spec(
        "scrub",
        ScrubParams,
        "workers.unlearn.scrub:scrub",
        "Leaves its earlier predictions on the forget set, holds to them on the retain set.",
        "One batch per step; the predictions on both sets are asked for once and kept.",
    ),
    _spec(
        "ssd",
        SsdParams,
        "workers.unlearn.ssd:ssd",
        "Shrinks, once, the weights that matter more to the forget set than to the retain set.",
        "One pass with gradients, record by record, over a sample of both sets.",
    ),
    _spec(
        "rmu",
        RmuParams,
        "workers.unlearn.rmu:rmu",
        "Leads the activations of the forget set astray at one layer, and holds the others.",
        "The layers up to the one named, and none after it.",
        needs=_NEEDS | {"layers"},
    ),
    _spec(
        "fine_tune",
        FineTuneParams,
        "workers.unlearn.fine_tune:fine_tune",
        "Trains on with the retain set alone, so that the rest fades.",
        "One forward and backward pass over one batch per step.",
    ),
)
