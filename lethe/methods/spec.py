"""What is known of a method without running it: its guarantee, its needs, its parameters, its cost.

The service plans with these facts and a worker runs by them, so nothing here needs torch. A method
of one's own is a `MethodSpec` under the entry-point group `lethe.methods`; see docs/extending.md.
"""

from collections.abc import Callable
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
Way = Literal["train", "steps", "remove", "switch_off"]


class NoParams(BaseModel):
    """A method without parameters of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GuardParams(BaseModel):
    """The bounds that every approximate method is held to; the only place of these defaults.

    Attributes:
        forget_loss_target: nats; None for the never-seen level, which also caps it.
        retain_loss_increase: nats by which the retain loss may rise over its start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    forget_loss_target: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    retain_loss_increase: float = Field(default=0.1, ge=0, allow_inf_nan=False)


class DescentParams(GuardParams):
    """How to step; the only place of these defaults."""

    learning_rate: float = Field(default=1e-4, gt=0, le=10, allow_inf_nan=False)
    max_steps: int = Field(default=200, ge=1, le=100_000)
    batch_size: int = Field(default=8, ge=1, le=65_536)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)


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
    """

    slice_records: tuple[tuple[int, ...], ...]
    hits: tuple[ShardHit, ...]
    epochs: int

    @property
    def records(self) -> int:
        """All records trained on."""
        return sum(map(sum, self.slice_records))

    @property
    def forget(self) -> int:
        """The records to forget."""
        return sum(hit.records for hit in self.hits)


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
        by_default: whether it is considered where no policy names it.
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
    by_default: bool = False
