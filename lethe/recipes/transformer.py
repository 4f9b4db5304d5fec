"""What models of `transformers` over text are made from: those trained, and those left frozen."""

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


class PretrainedParams(BaseModel):
    """Where a model of `transformers` comes from, and what text it is fed.

    `config` is a `transformers` configuration with its model_type; tokens' numbers are filled in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, JsonValue] | None = None
    checkpoint: LocalFolder | None = None
    tokenizer: Literal["bytes"] | LocalFolder = "bytes"
    max_tokens: int = Field(default=128, ge=2, le=131_072)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.config is None) == (self.checkpoint is None):
            raise ValueError("a transformer needs either config or checkpoint")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("config needs a model_type, such as gpt2")
        return self


class TransformerParams(PretrainedParams):
    """What any model of `transformers` over text is made from and trained by."""

    text: str
    lora: LoraParams | None = None
    training: TrainingParams = TrainingParams()


class FrozenBackbone(PretrainedParams):
    """A model without a head that turns a text into numbers and is never trained.

    It must be public, and never have seen a record that may have to be erased: what it has learned
    stays in it.

    Attributes:
        column: where the text is.
        width: how many numbers it makes of a text, the hidden size of the model.
        seed: public; of whatever weights no checkpoint brings.
    """

    column: str
    width: int = Field(ge=1, le=16_384)
    seed: int = Field(default=0, ge=0, lt=2**63)
