"""Does a language model continue a record in the record's own words?

The model is given the beginning of each record and continues it token by token: greedily, and by
samples (Carlini et al. 2021, arXiv 2012.07805). Records whose beginnings have the same number of
tokens share a batch, so that nothing is padded and no record changes what another gets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from workers.attacks.prompts import OfText
from workers.evidence.shift import NotApplicable
from workers.evidence.text import rouge_l, rouge_words
from workers.recipes.one_prediction import OnePrediction
from workers.recipes.tokens import Tokenizer
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import Examples, count

Scores = npt.NDArray[np.float64]
Next = Callable[[Tensor], Tensor]
"""Takes the tokens so far (b, L) and gives the log probabilities of the next one (b, K)."""


@dataclass(frozen=True)
class Said:
    """A piece of text: as tokens, the end of the text among them, and decoded."""

    # A record may name a person, so that neither shows in a log or an error.
    tokens: tuple[int, ...] = field(repr=False)
    text: str = field(repr=False)


@dataclass(frozen=True)
class Continuations:
    """How each record goes on, and how the model continues it.

    Attributes:
        true: (n,) what follows each beginning.
        tries: (n, 1 + sampled) what the model said, greedily first; each no longer than the true
            one, and up to the end of the text where the model ended it.
    """

    true: tuple[Said, ...]
    tries: tuple[tuple[Said, ...], ...]


def continuations(
    model: Ensemble,
    examples: Examples,
    *,
    prompt_share: float = 0.5,
    most_new: int = 64,
    sampled: int = 0,
    temperature: float = 1.0,
    seed: int,
) -> Continuations:
    """Let a model continue the beginning of each record.

    A record's samples depend on the model, the record, its place and the seed, not on the others.

    Args:
        model: of a task whose records are texts.
        examples: tokens (n, max_tokens) and length (n,).
        prompt_share: how much of each record's tokens is the beginning; at least one token is,
            and at least one is left to say.
        most_new: the most tokens of a continuation.
        sampled: how many samples follow the greedy continuation.
        temperature: what log probabilities are divided by before a sample is drawn.
        seed: of the samples.

    Raises:
        NotApplicable: the model does not say texts.
        ValueError: there is no record, one has less than two tokens, or an argument is out of
            range.
    """
    task = model.task
    if not isinstance(task, OfText) or isinstance(task, OnePrediction):
        raise NotApplicable("the model says no text that a record could be recognised in")
    if not 0 < prompt_share < 1 or most_new < 1 or sampled < 0 or temperature <= 0:
        raise ValueError("a share in (0, 1), new tokens, samples and a temperature above 0, please")
    if not count(examples) or int(examples["length"].min()) < 2:
        raise ValueError("continuations need at least one record, of at least two tokens each")
    length = examples["length"].cpu()
    begun = (length * prompt_share).floor().long().clamp(min=1).minimum(length - 1)
    new = (length - begun).clamp(max=most_new)
    draws = torch.rand(
        (len(length), 1 + sampled, most_new),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    draws[:, 0] = torch.nan  # the greedy try draws nothing
    tokens, tries = examples["tokens"].cpu(), [tuple[Said, ...]()] * len(length)
    for batch in _alike(begun, max(1, task.training.batch_size // (1 + sampled))):
        prompts = tokens[batch, : int(begun[batch[0]])]
        said = _continue(model, prompts, draws[batch, :, : int(new[batch].max())], temperature)
        for place, rows in zip(batch.tolist(), said, strict=True):
            tries[place] = tuple(
                _said(task.tokenizer, _to_the_end(row[: int(new[place])], task.tokenizer.eos))
                for row in rows.tolist()
            )
    true = tuple(
        _said(task.tokenizer, row[start : start + many].tolist())
        for row, start, many in zip(tokens, begun.tolist(), new.tolist(), strict=True)
    )
    return Continuations(true, tuple(tries))


def copied(said: Continuations, tries: int) -> Scores:
    """ROUGE-L F1 of the best of the first tries against the true continuation, in [0, 1]: (n,).

    Raises:
        ValueError: there are not as many tries, or none is asked for.
    """
    if not said.true or not 1 <= tries <= len(said.tries[0]):
        raise ValueError("scores need at least one record, and as many tries as are asked for")
    return np.array(
        [
            max(_likeness(true, one) for one in all_tries[:tries])
            for true, all_tries in zip(said.true, said.tries, strict=True)
        ]
    )


def _likeness(true: Said, one: Said) -> float:
    return rouge_l(rouge_words(true.text), rouge_words(one.text)).f1


def _alike(begun: Tensor, most: int) -> Iterator[Tensor]:
    """Places of records whose beginnings are of the same length, at most so many at once."""
    for length in sorted(set(begun.tolist())):
        yield from torch.split((begun == length).nonzero().squeeze(-1), most)


def _continue(model: Ensemble, prompts: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """Continue (b, L) tokens by (b, tries, new); where a draw is NaN, greedily."""
    for member in model.members:
        member.eval()
    device = next(model.members[0].parameters()).device
    records, tries, new = draws.shape
    tokens = prompts.repeat_interleave(tries, 0).to(device)
    numbers, ask = draws.flatten(0, 1), _next_of(model)
    with torch.inference_mode():
        for step in range(new):
            chosen = _choose(ask(tokens), numbers[:, step], temperature)
            tokens = torch.cat([tokens, chosen.unsqueeze(-1)], dim=-1)
    return tokens[:, prompts.shape[1] :].cpu().view(records, tries, new)


def _choose(log_p: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """The most probable class of each row (b, K), or the one that the draw falls on: (b,)."""
    greedy = log_p.argmax(-1)
    if bool(draws.isnan().all()):
        return greedy
    # By the distribution function: torch.multinomial draws for the batch, not for each record.
    # On the CPU, since sums on a GPU are not the same bits every time.
    up_to = (log_p.cpu().double() / temperature).softmax(-1).cumsum(-1)
    sought = draws.nan_to_num(0.0).unsqueeze(-1) * up_to[:, -1:]
    drawn = torch.searchsorted(up_to, sought, right=True).squeeze(-1).clamp(max=log_p.shape[-1] - 1)
    return greedy.where(draws.isnan().to(greedy.device), drawn.to(greedy.device))


def _next_of(model: Ensemble) -> Next:
    only = model.members[0]
    if len(model.members) == 1 and isinstance(only, PreTrainedModel):
        return _cached(only)

    def ask(tokens: Tensor) -> Tensor:
        # The task predicts what a row holds, so that a place to be predicted is added.
        rows = torch.cat([tokens, tokens[:, -1:]], dim=-1)
        length = torch.full((len(rows),), rows.shape[1], device=rows.device)
        return model.log_distribution({"tokens": rows, "length": length})[:, -1]

    return ask


def _cached(model: PreTrainedModel) -> Next:
    """The next token of a growing row, the keys and values of what was asked before kept."""
    kept: object = None

    def ask(tokens: Tensor) -> Tensor:
        nonlocal kept
        given = tokens if kept is None else tokens[:, -1:]
        output = model(input_ids=given, past_key_values=kept, use_cache=True)
        kept = output.past_key_values
        log_p: Tensor = output.logits[:, -1].float().log_softmax(-1)
        return log_p

    return ask


def _to_the_end(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def _said(tokenizer: Tokenizer, tokens: list[int]) -> Said:
    return Said(tuple(tokens), tokenizer.decode(tokens))
