"""What is known of a method without running it: its guarantee, its needs, its parameters, its cost.

The service plans with these facts and a worker runs by them, so nothing here needs torch. A method
of one's own is a `MethodSpec` under the entry-point group `lethe.methods`; see docs/extending.md.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Guarantee = Literal["exact", "certified", "approximate"]
Need = Literal[
    "forget",
    "retain",
    "holdout",
    "weights",
    "checkpoints",
    "gradients",
    "layers",
    "text",
    "adapters",
    "gram",
    "hessian",
]
ByDefault = Literal["always", "text", "other", "named"]
"""For which models a method is considered by default: all, language models, the others, none."""

Way = Literal["train", "steps", "remove", "switch_off"]


class NoParams(BaseModel):
    """A method without parameters of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GuardParams(BaseModel):
    """The bounds that every approximate method is held to; the only place of these defaults.

    Attributes:
        forget_loss_target: nats; None for the never-seen level, which also caps it.
        retain_loss_increase: nats by which the retain loss may rise over its start.
        unmeasured_steps: steps, at most, between two measurements of both losses. The first steps
            are all measured, and so is each after one that had to be cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    forget_loss_target: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    retain_loss_increase: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    unmeasured_steps: int = Field(default=0, ge=0, le=1000)


class DescentParams(GuardParams):
    """How to step; the only place of these defaults.

    Attributes:
        batch_size: records of each set per step.
        accumulate: parts that a step's batches are cut into, one in memory at a time; the step
            stays the same but for rounding and dropout.
        precision: of the steps' passes; weights, optimiser and all measurements are fp32. bf16
            pays on GPUs.
        recompute: layers run again in the backward pass instead of keeping their activations;
            for models of `transformers`.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=10, allow_inf_nan=False)
    max_steps: int = Field(default=200, ge=1, le=100_000)
    batch_size: int = Field(default=8, ge=1, le=65_536)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    unmeasured_steps: int = Field(default=7, ge=0, le=1000)
    accumulate: int = Field(default=1, ge=1, le=65_536)
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False


@dataclass(frozen=True, slots=True)
class ShardHit:
    """A shard that holds records to forget, the first slice (from 0) with one, and how many."""

    shard: int
    first_slice: int
    records: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What a method's cost depends on.

    Attributes:
        slice_records: records trained on, per shard and slice, before the erasure.
        hits: the shards that hold records to forget.
        epochs: of the recipe.
        weights: of one shard's network; None where nobody has counted them.
        predictions: that one record asks for (its tokens, or one class), on average; None likewise.
    """

    slice_records: tuple[tuple[int, ...], ...]
    hits: tuple[ShardHit, ...]
    epochs: int
    weights: int | None = None
    predictions: float | None = None

    @property
    def records(self) -> int:
        """All records trained on."""
        return sum(map(sum, self.slice_records))

    @property
    def forget(self) -> int:
        """The records to forget."""
        return sum(hit.records for hit in self.hits)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a method is predicted to take, without the checks after it.

    Attributes:
        record_passes: how many times a record is trained on.
        seconds: on one worker, shards one after another.
        flops: arithmetic; None where the network was not measured or nothing is trained.
        bytes: memory of weights, gradients and optimiser; None likewise.
    """

    record_passes: float
    seconds: float
    flops: float | None
    bytes: float | None


# Forward 2, backward 4 operations per weight and prediction.
_FLOPS_PER_WEIGHT = 6
# Four numbers of four bytes: the weight, its gradient, both moments of AdamW.
_BYTES_PER_WEIGHT = 16


@dataclass(frozen=True)
class MethodSpec:
    """One method; planning, the API and the table in the README are made of it.

    Attributes:
        version: raised when the same arguments would give another model.
        guarantee: exact: equals retraining without the records, provably; certified: within a
            stated bound of it; approximate: evidence only.
        requires: what must be at hand, as the recipe offers it and lineage has it.
        params: the parameters that a model's policy may set.
        record_passes: how many times a record is trained on (forward and backward), predicted on
            the long side.
        evidence: the checks that its verdict rests on besides utility.
        summary: what it does, in one line.
        cost: what it costs, in words.
        refused: when it is not used, in words.
        way: train: shards are trained again; steps: small guarded steps from the present weights;
            remove: the recipe takes the records out of what it has stored; switch_off: what has
            seen the records is no longer served, and nothing is computed.
        implementation: "module:function" where the way is steps, imported by workers only.
        by_default: for which models it is considered where no policy names it.
    """

    name: str
    version: int
    guarantee: Guarantee
    requires: frozenset[Need]
    params: type[BaseModel]
    record_passes: Callable[[Setting], float]
    evidence: tuple[str, ...]
    summary: str
    cost: str
    refused: str
    way: Way
    implementation: str | None = None
    by_default: ByDefault = "named"

    def is_default_for(self, offered: AbstractSet[Need]) -> bool:
        """Whether it is considered for a model whose recipe offers this, where nobody names it."""
        if self.by_default in {"text", "other"}:
            return (self.by_default == "text") == ("text" in offered)
        return self.by_default == "always"

    def estimate(self, setting: Setting, seconds_per_record_pass: float) -> Estimate:
        """Predict the cost at a measured rate.

        Training takes 6 operations per weight and prediction (Kaplan et al. 2020, arXiv 2001.08361,
        section 2.1), and in fp32 with AdamW 16 bytes per weight; activations come on top. What only
        removes or switches off trains nothing, so neither figure would be true of it.
        """
        passes = self.record_passes(setting)
        flops = memory = None
        if self.way in {"train", "steps"} and setting.weights is not None:
            memory = float(_BYTES_PER_WEIGHT * setting.weights)
            if setting.predictions is not None:
                flops = _FLOPS_PER_WEIGHT * setting.weights * setting.predictions * passes
        return Estimate(passes, passes * seconds_per_record_pass, flops, memory)
