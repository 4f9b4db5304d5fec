"""How long and how a model is trained: what every recipe that trains by gradients takes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Aggregation = Literal["mean_probabilities", "mean_logits", "vote"]
"""How members predict together, each weighing as many as its share of all records.

- mean_probabilities: p = sum_k w_k p_k, the default. A class that one
  member finds likely stays likely.
- mean_logits: p is proportional to exp(sum_k w_k log p_k), the softmax of the mean logits. A member
  that is sure of a mistake can overrule all others.
- vote: Bourtoule et al. 2021 (arXiv 1912.03817), section IV-C: each member votes for its most
  probable class. One vote more is cast as mean_probabilities has it, so that no class is impossible
  and ties are decided by what the members believe: p = (n v + p_mean) / (n + 1) of n members.

One member alone is itself under each of them.
"""


class TrainingParams(BaseModel):
    """How long and how a model is trained; the only place of these defaults.

    Attributes:
        aggregation: how the shards' models predict together, where there are several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=20, ge=1, le=10_000)
    batch_size: int = Field(default=16, ge=1, le=65_536)
    learning_rate: float = Field(default=1e-3, gt=0, le=10, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    aggregation: Aggregation = "mean_probabilities"
