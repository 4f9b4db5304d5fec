"""Recipe `causal_lm`: a causal language model of `transformers`, all weights or LoRA adapters.

From a configuration with random weights, or from a local safetensors checkpoint that was never
trained on records of a data subject. Nothing is fetched from a hub, and no remote code runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lethe.recipes.causal_lm import CausalLmParams
from lethe.recipes.training import TrainingParams
from workers.recipes.chunked_head import ask_head
from workers.recipes.tokens import Tokenizer
from workers.recipes.transformer import adapt, encode_text, load, tokenizer_of, trim
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
            model = load(AutoModelForCausalLM, self.params, self.tokenizer)
            if self.params.lora is not None:
                adapt(model, self.params.lora)
        return model

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        """Turn rows into padded tokens; longer texts are cut.

        Raises:
            ValueError: the text column is missing or holds no text; names the column only.
        """
        return encode_text(rows, self.params, self.tokenizer)

    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        """Log probabilities of each next token: (n, T, vocabulary).

        T is one less than the longest length among the examples.
        """
        tokens, counted = trim(examples)
        output = model(input_ids=tokens[:, :-1], attention_mask=counted[:, :-1], use_cache=False)
        logits: Tensor = output.logits
        return logits.float().log_softmax(-1)

    def targets(self, examples: Examples) -> Tensor:
        """The next tokens, the end of the text among them: (n, T), padding ignored."""
        tokens, counted = trim(examples)
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


def make_causal_lm(params: CausalLmParams) -> CausalLm:
    """Bind the recipe to its parameters.

    Raises:
        FileNotFoundError: the tokenizer's folder is missing.
        ValueError: the tokenizer's content is another than registered.
    """
    return CausalLm(params, tokenizer_of(params))


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
    tokens, counted = trim(examples)
    inputs = {"input_ids": tokens[:, :-1], "attention_mask": counted[:, :-1]}
    return inputs, counted[:, 1:].flatten().nonzero().squeeze(-1)


def _packed(examples: Examples) -> tuple[dict[str, Tensor], Tensor]:
    """As few rows as first-fit by falling length needs; positions tell where a record begins.

    Without an attention mask, models of `transformers` let no place see one of another record.
    """
    tokens, _ = trim(examples)
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
