"""Recipe `causal_lm`: a causal language model of `transformers`, all weights or LoRA adapters.

From a configuration with random weights, or from a local safetensors checkpoint that was never
trained on records of a data subject. Nothing is fetched from a hub, and no remote code runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from pydantic import JsonValue
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lethe.recipes.causal_lm import CausalLmParams, LoraParams
from lethe.recipes.local_folder import LocalFolder
from lethe.recipes.training import TrainingParams
from workers.recipes.chunked_head import ask_head
from workers.recipes.tokens import Tokenizer, byte_tokenizer, local_tokenizer
from workers.unlearn.task import IGNORED, Ask, Examples, nll_of, share_right

PLAIN_HEADS = frozenset({"gpt2", "gpt_neox", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3"})
"""Kinds of models whose logits are the head's output and nothing more, and whose attention keeps
apart what starts again at position 0; tested. Others work, and hold all logits at once."""


@dataclass(frozen=True)
class CausalLm:
    """The language model as a task.

    Examples hold tokens (n, max_tokens) int64 and length (n,) int64, the number of tokens that
    count. Every row has the full width, so that no record's length shows in another's tensors.
    """

    params: CausalLmParams
    tokenizer: Tokenizer

    @property
    def training(self) -> TrainingParams:
        """How the model is trained."""
        return self.params.training

    def build(self, seed: int) -> nn.Module:
        """Make the model: random weights and adapters are drawn from `seed`.

        Raises:
            FileNotFoundError: the checkpoint's folder is missing.
            ValueError: the checkpoint's content is another than registered, or the model is too
                small for the tokenizer or for `max_tokens`.
        """
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = self._base()
            if self.params.lora is not None:
                _adapt(model, self.params.lora)
        return model

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into padded tokens; longer texts are cut.

        Raises:
            ValueError: the text column is missing or holds no text; names the column only.
        """
        tokens = torch.full((len(rows), self.params.max_tokens), self.tokenizer.pad)
        length = torch.zeros(len(rows), dtype=torch.int64)
        for i, row in enumerate(rows):
            text = row.get(self.params.text)
            if not isinstance(text, str):
                raise ValueError(f"column {self.params.text!r} must hold a text in every record")
            ids = self.tokenizer.encode(text, self.params.max_tokens)
            tokens[i, : len(ids)] = torch.tensor(ids)
            length[i] = len(ids)
        return {"tokens": tokens, "length": length}

    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of each next token: (n, T, vocabulary).

        T is one less than the longest length among the examples.
        """
        tokens, counted = _trim(examples)
        output = model(input_ids=tokens[:, :-1], attention_mask=counted[:, :-1], use_cache=False)
        logits: Tensor = output.logits
        return logits.float().log_softmax(-1)

    def targets(self, examples: Examples) -> Tensor:
        """The next tokens, the end of the text among them: (n, T), padding ignored."""
        tokens, counted = _trim(examples)
        return tokens[:, 1:].where(counted[:, 1:], IGNORED)

    def per_prediction(self, model: nn.Module, examples: Examples, ask: Ask) -> Tensor:
        """What `ask` says of each prediction: (predictions, ...), never all log probabilities.

        In training mode short records share a row, so that inner modules see rows of tokens and not
        records, and `chunked_head.ask_head` saves memory.
        """
        plain = _plain_head(model)
        if plain is None:
            rows = self.log_distribution(model, examples)[self.targets(examples) != IGNORED]
            return ask(rows, slice(0, len(rows)))
        head, classes = plain
        hidden = _last_hidden(model, head, examples)
        return ask_head(head, classes, hidden, ask, model.training)

    def losses(self, model: nn.Module, examples: Examples) -> Tensor:
        """Mean negative log likelihood per token of each record in nats: (n,)."""
        return nll_of(self, model, examples)

    def accuracies(self, model: nn.Module, examples: Examples) -> Tensor:
        """Share of each record's tokens that were the most probable: (n,)."""
        return share_right(self.log_distribution(model, examples), self.targets(examples))

    def _base(self) -> nn.Module:
        # Eager attention: the fused kernels have no deterministic gradient on every device.
        if self.params.checkpoint is not None:
            model = AutoModelForCausalLM.from_pretrained(
                self.params.checkpoint.verified(),
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=torch.float32,
            )
        else:
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                self._config(), attn_implementation="eager", dtype=torch.float32
            )
        self._check_size(model.config)
        base: nn.Module = model
        return base

    def _config(self) -> PretrainedConfig:
        values: dict[str, JsonValue] = {
            "vocab_size": self.tokenizer.size,
            "bos_token_id": self.tokenizer.bos,
            "eos_token_id": self.tokenizer.eos,
            "pad_token_id": self.tokenizer.pad,
            **(self.params.config or {}),
        }
        return AutoConfig.for_model(str(values.pop("model_type")), **values)

    def _check_size(self, config: PretrainedConfig) -> None:
        if config.vocab_size < self.tokenizer.size:
            raise ValueError(f"the model needs a vocabulary of at least {self.tokenizer.size}")
        # Models without learned positions may name no limit.
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and positions < self.params.max_tokens:
            raise ValueError(f"max_tokens is more than the model's {positions} positions")


def make_causal_lm(params: CausalLmParams) -> CausalLm:
    """Bind the recipe to its parameters.

    Raises:
        FileNotFoundError: the tokenizer's folder is missing.
        ValueError: the tokenizer's content is another than registered.
    """
    if isinstance(params.tokenizer, LocalFolder):
        return CausalLm(params, local_tokenizer(params.tokenizer))
    return CausalLm(params, byte_tokenizer())


def _adapt(model: nn.Module, lora: LoraParams) -> None:
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


def _trim(examples: Examples) -> tuple[Tensor, Tensor]:
    """Tokens (n, longest) and whether each counts, without columns that are padding for all."""
    length = examples["length"]
    longest = int(length.max())
    places = torch.arange(longest, device=length.device)
    return examples["tokens"][:, :longest], places < length.unsqueeze(1)


def _plain_head(model: nn.Module) -> tuple[nn.Module, int] | None:
    """The head whose output are the logits, and how many; None where there may be more to them."""
    if not isinstance(model, PreTrainedModel) or model.config.model_type not in PLAIN_HEADS:
        return None
    return model.get_output_embeddings(), model.config.vocab_size  # type: ignore[no-untyped-call]


def _last_hidden(model: nn.Module, head: nn.Module, examples: Examples) -> Tensor:
    """What the head is given for each place that counts: (predictions, width), record by record."""
    inputs, at = _packed(examples) if model.training else _padded(examples)
    given: list[Tensor] = []

    def nothing(_module: nn.Module, came: tuple[Tensor]) -> tuple[Tensor]:
        given.append(came[0])
        return (came[0][:, :0],)

    handle = head.register_forward_pre_hook(nothing)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return given[0].flatten(0, 1).index_select(0, at)


def _padded(examples: Examples) -> tuple[dict[str, Tensor], Tensor]:
    """A row per record, and where in the rows the predictions that count are."""
    tokens, counted = _trim(examples)
    inputs = {"input_ids": tokens[:, :-1], "attention_mask": counted[:, :-1]}
    return inputs, counted[:, 1:].flatten().nonzero().squeeze(-1)


def _packed(examples: Examples) -> tuple[dict[str, Tensor], Tensor]:
    """As few rows as first-fit by falling length needs; positions tell where a record begins.

    Without an attention mask, models of `transformers` let no place see one of another record.
    """
    tokens, _ = _trim(examples)
    lengths = (examples["length"] - 1).tolist()
    width, free, starts = max(lengths), list[int](), [0] * len(lengths)
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        row = next((r for r, room in enumerate(free) if room >= lengths[i]), len(free))
        if row == len(free):
            free.append(width)
        starts[i] = (row + 1) * width - free[row]
        free[row] -= lengths[i]
    if len(free) == len(lengths):
        return _padded(examples)
    record = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    offset = torch.cat([torch.arange(length) for length in lengths])
    at = torch.tensor(starts)[record] + offset
    # What follows the last record of a row is read by nobody, so its positions may be anything.
    position = torch.arange(width).repeat(len(free))
    position[at] = offset
    device = tokens.device
    at, record, offset = at.to(device), record.to(device), offset.to(device)
    ids = torch.zeros(len(position), dtype=tokens.dtype, device=device)
    ids[at] = tokens[record, offset]
    shape = (len(free), width)
    return {"input_ids": ids.view(shape), "position_ids": position.to(device).view(shape)}, at
