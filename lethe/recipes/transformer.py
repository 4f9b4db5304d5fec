"""What any model of `transformers` over text is made from."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from lethe.recipes.local_folder import LocalFolder
from lethe.recipes.training import TrainingParams


class LoraParams(BaseModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): W + (alpha / r) B A."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(default=8, ge=1, le=1024)
    alpha: int = Field(default=16, ge=1, le=4096)
    target_modules: tuple[str, ...] = Field(min_length=1)


class TransformerParams(BaseModel):
    """What any model of `transformers` over text is made from.

    `config` is a `transformers` configuration with its model_type; tokens' numbers are filled in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    config: dict[str, JsonValue] | None = None
    checkpoint: LocalFolder | None = None
    tokenizer: Literal["bytes"] | LocalFolder = "bytes"
    max_tokens: int = Field(default=128, ge=2, le=131_072)
    lora: LoraParams | None = None
    training: TrainingParams = TrainingParams()

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.config is None) == (self.checkpoint is None):
            raise ValueError("a transformer needs either config or checkpoint")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("config needs a model_type, such as gpt2")
        return self
