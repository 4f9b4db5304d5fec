"""How a model of `transformers` over text is made and fed.

From a configuration with random weights, or from a local safetensors checkpoint that was never
trained on records of a data subject. Nothing is fetched from a hub, and no remote code runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from pydantic import JsonValue
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from lethe.recipes.local_folder import LocalFolder
from lethe.recipes.transformer import (
    FrozenBackbone,
    LoraParams,
    PretrainedParams,
    TransformerParams,
)
from workers.recipes.columns import text
from workers.recipes.tokens import Tokenizer, byte_tokenizer, local_tokenizer
from workers.unlearn.task import Examples

Kind = type[AutoModel | AutoModelForCausalLM | AutoModelForSequenceClassification]


def tokenizer_of(params: PretrainedParams) -> Tokenizer:
    """The tokenizer that the recipe names.

    Raises:
        FileNotFoundError: its folder is missing.
        ValueError: its content is another than registered.
    """
    if isinstance(params.tokenizer, LocalFolder):
        return local_tokenizer(params.tokenizer)
    return byte_tokenizer()


def load(
    kind: Kind, params: PretrainedParams, tokenizer: Tokenizer, **settings: JsonValue
) -> PreTrainedModel:
    """Make the model, in float32, without adapters.

    Args:
        kind: what the model does.
        params: what it is made from.
        tokenizer: what it is fed by.
        settings: of the configuration, over those that `params` or the checkpoint name.

    Raises:
        FileNotFoundError: the checkpoint's folder is missing.
        ValueError: the checkpoint's content is another than registered, or has other shapes
            than asked for, or lacks weights of a model without a head, or the model is too small
            for the tokenizer or for `max_tokens`.
    """
    # Eager attention: the fused kernels have no deterministic gradient on every device.
    if params.checkpoint is not None:
        model, found = kind.from_pretrained(  # type: ignore[misc]
            params.checkpoint.verified(),
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="eager",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # so that they are told below, in words of our own
            output_loading_info=True,
            **settings,
        )
        if found["mismatched_keys"]:
            raise ValueError(
                "the checkpoint has weights of other shapes than the recipe asks for, such as a "
                "head for another number of classes"
            )
        # A pooler reads the last hidden state, and nothing here reads the pooler.
        lacking = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
        if kind is AutoModel and lacking:
            raise ValueError("the checkpoint lacks weights of the model that its config names")
    else:
        model = kind.from_config(  # type: ignore[no-untyped-call]
            _config(params, tokenizer, settings), attn_implementation="eager", dtype=torch.float32
        )
    _check_size(model.config, params, tokenizer)
    made: PreTrainedModel = model
    return made


@dataclass(frozen=True)
class Backbone:
    """A model without a head that nothing trains, and that is part of no state stored."""

    params: FrozenBackbone
    tokenizer: Tokenizer
    model: PreTrainedModel

    def mean_states(self, rows: Sequence[Mapping[str, object]]) -> Tensor:
        """The mean of a text's last hidden states: (n, width) float32.

        Over all tokens of the text, its beginning and end among them; longer texts are cut. It runs
        on the CPU, one record at a time and unpadded: a matrix product sums in an order that
        depends on its shape, so a record's last bits would follow from what shares its batch.

        Raises:
            ValueError: the column is missing or holds no text, or the model makes no finite number
                of one; names the column only.
        """
        column, most = self.params.column, self.params.max_tokens
        tokens = [self.tokenizer.encode(text(row, column), most) for row in rows]
        means = torch.empty(len(rows), self.params.width)
        for mean, ids in zip(means, tokens, strict=True):
            mean.copy_(_last_states(self.model, ids).mean(0))
        if not means.isfinite().all():
            raise ValueError(f"the backbone makes no finite numbers of a text in column {column!r}")
        return means


def make_backbone(params: FrozenBackbone) -> Backbone:
    """Load a frozen backbone; weights that no checkpoint brings are drawn from its public seed.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a folder's content is another than registered, the model has another width
            or needs a second text, or as `load`.
    """
    tokenizer = tokenizer_of(params)
    with torch.random.fork_rng([]):
        torch.manual_seed(params.seed)
        model = load(AutoModel, params, tokenizer)
    if model.config.is_encoder_decoder:
        raise ValueError("a backbone is an encoder or a decoder, not both: take another model")
    model.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
    width = _last_states(model, [tokenizer.bos]).shape[-1]
    if width != params.width:
        raise ValueError(f"the backbone's hidden states have {width} numbers: set width to that")
    return Backbone(params, tokenizer, model)


def adapt(model: nn.Module, lora: LoraParams) -> None:
    """Add adapters in place and freeze everything else."""
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    inject_adapter_in_model(
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            target_modules=list(lora.target_modules),
            fan_in_fan_out=transposed,
        ),
        model,
    )


def encode_text(
    rows: Sequence[Mapping[str, object]], params: TransformerParams, tokenizer: Tokenizer
) -> Examples:
    """Turn rows into tokens (n, max_tokens) and length (n,), both int64; longer texts are cut.

    Every row has the full width, so that no record's length shows in another's tensors.

    Raises:
        ValueError: the text column is missing or holds no text; names the column only.
    """
    tokens = torch.full((len(rows), params.max_tokens), tokenizer.pad)
    length = torch.zeros(len(rows), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids = tokenizer.encode(text(row, params.text), params.max_tokens)
        tokens[i, : len(ids)] = torch.tensor(ids)
        length[i] = len(ids)
    return {"tokens": tokens, "length": length}


def trim(examples: Examples) -> tuple[Tensor, Tensor]:
    """Tokens (n, longest) and whether each counts, without columns that are padding for all."""
    length = examples["length"]
    longest = int(length.max())
    places = torch.arange(longest, device=length.device)
    return examples["tokens"][:, :longest], places < length.unsqueeze(1)


@torch.no_grad()
def _last_states(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """The last hidden states of one text: (tokens, width)."""
    tokens = torch.tensor([ids])
    output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    states: Tensor = output.last_hidden_state
    return states[0]


def _config(
    params: PretrainedParams, tokenizer: Tokenizer, settings: Mapping[str, JsonValue]
) -> PretrainedConfig:
    values: dict[str, JsonValue] = {
        "vocab_size": tokenizer.size,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
        **(params.config or {}),
        **settings,
    }
    return AutoConfig.for_model(str(values.pop("model_type")), **values)


def _check_size(config: PretrainedConfig, params: PretrainedParams, tokenizer: Tokenizer) -> None:
    if config.vocab_size < tokenizer.size:
        raise ValueError(f"the model needs a vocabulary of at least {tokenizer.size}")
    # Models without learned positions may name no limit.
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < params.max_tokens:
        raise ValueError(f"max_tokens is more than the model's {positions} positions")
