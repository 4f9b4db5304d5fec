"""Scores of text: together and at once, against one by one.

    python -m benchmarks.bench_evidence_text [--rounds 7]

One thread, medians of CPU seconds, the two ways in turns and checked against each other.
Extraction strength of 1,000 records of 512 predictions, against a loop that compares suffix after
suffix. Then scores of 32 texts of 128 tokens on a tiny GPT-2: loss, Min-K %, Min-K++, exact
memorisation, extraction strength and ranks from one forward pass, against a scorer that takes one
text at a time and one forward pass for each of loss, Min-K % and Min-K++, as mimir does, and gives
none of the other three.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from workers.attacks.passes import predictions
from workers.evidence.text import (
    Predictions,
    exact_memorisation,
    extraction_strength,
    loss,
    min_k,
    min_k_plus_plus,
    target_rank,
)
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.task import Examples

RECORDS, LENGTH = 1_000, 512
TEXTS, TOKENS = 32, 128
SHARE = 0.2
Scores = dict[str, npt.NDArray[np.float64]]
Way = Callable[[], Scores]


def main() -> None:
    """Print both ways side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    deterministic()
    table = Table(title="scores of text, one thread, medians of CPU time")
    for column in ("what", "plain", "Lethe", "ratio", "goal", "largest difference"):
        table.add_column(column, justify="left" if column == "what" else "right")
    said, right = texts_with_right_ends()
    add(
        table,
        f"extraction strength, {RECORDS:,} × {LENGTH}",
        lambda: {"strength": plain_strength(said, right)},
        lambda: {"strength": extraction_strength(as_predictions(said, right))},
        (30, rounds),
    )
    for vocabulary in (50_000, 8_000):
        model, examples = tiny_gpt2(vocabulary)
        what = f"scores of {TEXTS} texts, vocabulary {vocabulary:,}"
        ways = text_by_text(model, examples), all_at_once(model, examples)
        add(table, what, *ways, (1.5, rounds))
    Console().print(table)


def add(table: Table, what: str, plain: Way, ours: Way, goal: tuple[float, int]) -> None:
    """Time both ways in turns, after one round that does not count, and add a row."""
    least, rounds = goal
    first, second = plain(), ours()
    difference = max(float(np.abs(first[name] - second[name]).max()) for name in first)
    seconds = [[cpu_seconds(way) for way in (plain, ours)] for _ in range(rounds)]
    slow, fast = (statistics.median(column) for column in zip(*seconds, strict=True))
    times = (f"{slow * 1e3:,.1f} ms", f"{fast * 1e3:,.1f} ms")
    table.add_row(what, *times, f"{slow / fast:.2f} ×", f"{least:g} ×", f"{difference:.0e}")


def cpu_seconds(way: Way) -> float:
    """CPU seconds of this process for one round."""
    start = time.process_time()
    way()
    return time.process_time() - start


def texts_with_right_ends() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Greedy and right tokens (n, T): seven in ten are right, and more towards the end."""
    source = np.random.default_rng(0)
    right = source.integers(0, 1_000, (RECORDS, LENGTH))
    learnt = source.integers(0, LENGTH, (RECORDS, 1)) < np.arange(LENGTH)
    wrong = ~learnt & (source.random((RECORDS, LENGTH)) < 0.3)
    return np.where(wrong, right + 1, right), right


def as_predictions(said: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Predictions:
    """What a pass would tell of them: nothing but the ranks is read."""
    none = np.zeros(said.shape)
    return Predictions(none, none, none, (said != right).astype(int), np.ones(said.shape, bool))


def plain_strength(
    said: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Compare each suffix of each record, the longest first."""
    found = np.zeros(len(said))
    for i in range(len(said)):
        for k in range(said.shape[1]):
            if np.array_equal(said[i, k:], right[i, k:]):
                found[i] = 1 - k / said.shape[1]
                break
    return found


def tiny_gpt2(vocabulary: int) -> tuple[Ensemble, Examples]:
    """A model of random weights, and texts of random bytes."""
    config = {
        "model_type": "gpt2",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 128,
        "n_positions": TOKENS,
        "vocab_size": vocabulary,
    }
    parameters = {"text": "text", "config": config, "max_tokens": TOKENS}
    task = make_task("causal_lm", parameters)
    source = np.random.default_rng(1)
    letters = source.integers(97, 123, (TEXTS, TOKENS), dtype=np.uint8)
    rows = [{"text": row.tobytes().decode()} for row in letters]
    return Ensemble(task, (task.build(0).eval(),)), task.encode(rows)


def all_at_once(model: Ensemble, examples: Examples) -> Way:
    """Every score from one forward pass."""

    def way() -> Scores:
        told = predictions(model, examples)
        return {
            "loss": loss(told),
            "min_k": min_k(told, SHARE),
            "min_k_plus_plus": min_k_plus_plus(told, SHARE),
            "exact_memorisation": exact_memorisation(told),
            "extraction_strength": extraction_strength(told),
            "target_rank": target_rank(told),
        }

    return way


def text_by_text(model: Ensemble, examples: Examples) -> Way:
    """One text at a time, a forward pass for each score."""
    member = model.members[0]

    def logits(tokens: Tensor) -> Tensor:
        found: Tensor = member(input_ids=tokens[None, :-1], use_cache=False).logits[0]
        return found

    def lowest(values: Tensor) -> float:
        return float(values.sort().values[: max(1, int(SHARE * len(values)))].mean())

    def nats(tokens: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(logits(tokens), tokens[1:]))

    def least(tokens: Tensor) -> float:
        log_p = logits(tokens).log_softmax(-1)
        return lowest(log_p.gather(-1, tokens[1:, None])[:, 0])

    def standardised(tokens: Tensor) -> float:
        given = logits(tokens)
        p, log_p = given.softmax(-1), given.log_softmax(-1)
        mean = (p * log_p).sum(-1)
        variance = (p * log_p.square()).sum(-1) - mean.square()
        own = log_p.gather(-1, tokens[1:, None])[:, 0]
        return lowest((own - mean) / variance.sqrt())

    def way() -> Scores:
        with torch.inference_mode():
            return {
                name: np.array([score(tokens) for tokens in examples["tokens"]])
                for name, score in (
                    ("loss", nats),
                    ("min_k", least),
                    ("min_k_plus_plus", standardised),
                )
            }

    return way


if __name__ == "__main__":
    main()
