"""One step of the approximate methods, beside a plain loop over `transformers`, in the same run.

    python -m benchmarks.bench_unlearn_steps [--quick]

A step is loss, backward pass, clipping and AdamW, in fp32, on 8 records to forget and 8 to retain
of 128 tokens each, by a Llama of 4 layers of width 256. Operations are those of the products with
weights; those among the places inside attention, the same for both, are told apart. The plain loop
runs a forward pass for each set and, where the method compares with the model before, a copy of the
model at every step; its last place predicts nothing, and it computes it all the same. Each row has
a process of its own, whose peak memory is that of the whole process: interpreter, libraries, model,
optimiser, step. Times are the least of several steps, so that other work on the machine counts
least.
"""

import argparse
import copy
import itertools
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from lethe.methods.approximate import GradDiffParams, NpoParams, RmuParams
from workers.recipes import make_task
from workers.unlearn.grad_diff import grad_diff
from workers.unlearn.method import Context, Move
from workers.unlearn.npo import npo
from workers.unlearn.rmu import rmu

Step = Callable[[], object]
LLAMA: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GPT2: dict[str, object] = {
    "model_type": "gpt2",
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
LAYER, STEERING, ALPHA, BETA = "model.layers.1", 6.5, 1200.0, 0.1
SMALL, LARGE = 8_192, 50_257
H100_BF16_FLOPS = 989e12
"""Dense, as its data sheet has it."""


@dataclass(frozen=True)
class Row:
    """What is measured in a process of its own.

    Attributes:
        method: a key of `PLAIN` and `OURS`.
        plain: by the plain loop.
        vocabulary: tokens that the model knows.
        records: of each set, of 128 tokens each.
        device: to work on, "cpu" in fp32 or "cuda" in bf16.
        repeats: steps to take the least time of.
        recompute: layers run again in the backward pass, by our step.
    """

    method: str
    plain: bool
    vocabulary: int
    records: int = 8
    device: str = "cpu"
    repeats: int = 5
    recompute: bool = False


@dataclass(frozen=True)
class Figures:
    """Of one step: floating-point operations and seconds; of the process: bytes at its peak.

    `attention` are the operations among the places, which are not in `flops`.
    """

    flops: int
    attention: int
    seconds: float
    peak_bytes: int


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer methods, one step each")
    quick = parser.parse_args().quick
    repeats = 1 if quick else 5
    steps_table(("npo", "rmu") if quick else tuple(REACH), repeats)
    memory_table(("npo",) if quick else tuple(MEMORY_REACH))
    if torch.cuda.is_available():
        cuda_table(repeats * 10)


REACH = {"grad_diff": 77.5, "npo": 77.5, "grad_diff_kl": 90.0, "rmu": 15.5, "rmu_last_layer": 15.5}
"""GFLOP that a step is to stay within."""

MEMORY_REACH = {"grad_diff": 0.65, "npo": 0.55}
"""Share of the plain loop's peak memory that a step is to stay within."""


def steps_table(methods: tuple[str, ...], repeats: int) -> None:
    """Count and time a step of each method."""
    table = Table("step", title=f"Llama 4×256, vocabulary {SMALL:,}, 8+8×128 tokens, fp32")
    for name in ("GFLOP", "reach", "plain GFLOP", "attention", "plain attention", "ms", "plain ms"):
        table.add_column(name, justify="right")
    for method in methods:
        ours, plain = both(Row(method, plain=False, vocabulary=SMALL, repeats=repeats))
        table.add_row(
            method,
            f"{ours.flops / 1e9:.1f}",
            f"≤ {REACH[method]}",
            f"{plain.flops / 1e9:.1f}",
            f"{ours.attention / 1e9:.1f}",
            f"{plain.attention / 1e9:.1f}",
            f"{ours.seconds * 1e3:,.0f}",
            f"{plain.seconds * 1e3:,.0f}",
        )
    Console().print(table)


def memory_table(methods: tuple[str, ...]) -> None:
    """Measure the peak memory of a step of each method."""
    table = Table("step", title=f"the same with vocabulary {LARGE:,}")
    for name in ("peak MB", "plain peak MB", "ratio", "reach", "ms", "plain ms"):
        table.add_column(name, justify="right")
    for method, recompute in itertools.product(methods, (False, True)):
        ours, plain = both(
            Row(method, plain=False, vocabulary=LARGE, repeats=3, recompute=recompute)
        )
        table.add_row(
            f"{method}, layers recomputed" if recompute else method,
            f"{ours.peak_bytes / 1e6:,.0f}",
            f"{plain.peak_bytes / 1e6:,.0f}",
            f"{ours.peak_bytes / plain.peak_bytes:.2f}",
            f"≤ {MEMORY_REACH[method]}",
            f"{ours.seconds * 1e3:,.0f}",
            f"{plain.seconds * 1e3:,.0f}",
        )
    Console().print(table)


def cuda_table(repeats: int) -> None:
    """Time an NPO step of a model of GPT-2's shape on the GPU, 1,024 tokens in bf16."""
    table = Table("step", title="124 M GPT-2 shape, 4+4×128 tokens, bf16 NPO step")
    for name in ("ms", "MFU of an H100"):
        table.add_column(name, justify="right")
    row = Row("npo", plain=False, vocabulary=LARGE, records=4, device="cuda", repeats=repeats)
    ours, plain = both(row)
    for name, one in (("ours", ours), ("plain loop", plain)):
        # The operations needed are those of ours: a copy's forward pass is waste, not use.
        share = (ours.flops + ours.attention) / one.seconds / H100_BF16_FLOPS
        table.add_row(name, f"{one.seconds * 1e3:.2f}", f"{share:.1%}")
    Console().print(table)


def both(row: Row) -> tuple[Figures, Figures]:
    """Measure ours and the plain loop."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        ours = pool.submit(measure, row).result()
        return ours, pool.submit(measure, replace(row, plain=True)).result()


def measure(row: Row) -> Figures:
    """Prepare, make a first step, time others, count one."""
    torch.set_num_threads(1)
    step = prepared(row)
    step()
    seconds = []
    for _ in range(row.repeats):
        start = time.perf_counter()
        step()
        # Both ways read the gradient's norm at the end, which waits for the device.
        seconds.append(time.perf_counter() - start)
    # Counting takes memory of its own.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with FlopCounterMode(display=False) as counter:
        step()
    total = counter.get_total_flops()
    attention = counter.get_flop_counts()["Global"].get(torch.ops.aten.bmm, 0)
    return Figures(total - attention, attention, min(seconds), peak)


def prepared(row: Row) -> Step:
    """Build the model and the records, and return what makes one step."""
    shape = LLAMA if row.device == "cpu" else GPT2
    task = make_task(
        "causal_lm",
        {
            "text": "text",
            "config": {**shape, "vocab_size": row.vocabulary},
            "max_tokens": 128,
            "training": {"batch_size": row.records},
        },
    )
    model = task.build(0).to(row.device)
    generator = torch.Generator().manual_seed(0)
    forget, retain = (
        {
            "tokens": torch.randint(row.vocabulary, (row.records, 128), generator=generator),
            "length": torch.full((row.records,), 128),
        }
        for _ in range(2)
    )
    if row.plain:
        return PlainLoop(row, model, forget["tokens"], retain["tokens"]).step
    precision = "fp32" if row.device == "cpu" else "bf16"
    move = OURS[row.method](
        Context(task, model, forget, retain, "benchmark"),
        {
            "batch_size": row.records,
            "learning_rate": 1e-5,
            "precision": precision,
            "recompute": row.recompute,
        },
    )
    return lambda: move.step(1)


OURS: dict[str, Callable[[Context, dict[str, object]], Move]] = {
    "grad_diff": lambda context, params: grad_diff(context, GradDiffParams.model_validate(params)),
    "grad_diff_kl": lambda context, params: grad_diff(
        context, GradDiffParams.model_validate({**params, "retain_term": "kl"})
    ),
    "npo": lambda context, params: npo(context, NpoParams.model_validate(params)),
    # As the paper trains it: the MLPs' output projections up to the layer.
    "rmu": lambda context, params: rmu(
        context,
        RmuParams.model_validate(
            {**params, "layer": LAYER, "trained_layers": 2, "trained_modules": ["mlp.down_proj"]}
        ),
    ),
    "rmu_last_layer": lambda context, params: rmu(
        context, RmuParams.model_validate({**params, "layer": LAYER, "trained_layers": 1})
    ),
}


class PlainLoop:
    """What one writes first: two forward passes, and a copy of the model to compare with."""

    def __init__(self, row: Row, model: nn.Module, forget: Tensor, retain: Tensor) -> None:
        self.row, self.model = row, model.train()
        self.forget, self.retain = forget.to(row.device), retain.to(row.device)
        self.before = None if row.method == "grad_diff" else copy.deepcopy(model).eval()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)
        self.goal = STEERING * functional.normalize(torch.ones(256), dim=0)

    def step(self) -> float:
        """Make one step."""
        with torch.autocast(self.row.device, torch.bfloat16, enabled=self.row.device == "cuda"):
            loss = PLAIN[self.row.method](self)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return norm.item()

    def of_before(self, tokens: Tensor) -> Tensor:
        """Logits of the copy."""
        if self.before is None:
            raise ValueError("this method compares with nothing")
        with torch.no_grad():
            logits: Tensor = self.before(input_ids=tokens).logits
        return logits

    def grad_diff(self) -> Tensor:
        """Loss of the retained records less that of those to forget."""
        retain: Tensor = self.model(input_ids=self.retain, labels=self.retain).loss
        forget: Tensor = self.model(input_ids=self.forget, labels=self.forget).loss
        return retain - forget

    def grad_diff_kl(self) -> Tensor:
        """Divergence on the retained records less the loss of those to forget."""
        now = self.model(input_ids=self.retain).logits.log_softmax(-1)
        before = self.of_before(self.retain).log_softmax(-1)
        drift = functional.kl_div(now, before, reduction="none", log_target=True).sum(-1).mean()
        forget: Tensor = self.model(input_ids=self.forget, labels=self.forget).loss
        return drift - forget

    def npo(self) -> Tensor:
        """Negative preference of the records to forget, and loss of the retained ones."""
        now = whole_nll(self.model(input_ids=self.forget).logits, self.forget)
        before = whole_nll(self.of_before(self.forget), self.forget)
        forget = -2 / BETA * functional.logsigmoid(BETA * (now - before)).mean()
        retain: Tensor = self.model(input_ids=self.retain, labels=self.retain).loss
        return forget + retain

    def rmu(self) -> Tensor:
        """Distances at the layer, by hooks on whole forward passes."""
        led, held = self.hidden(self.model, self.forget), self.hidden(self.model, self.retain)
        with torch.no_grad():
            before = self.hidden(self.before or self.model, self.retain)
        return functional.mse_loss(led, self.goal.expand_as(led)) + ALPHA * functional.mse_loss(
            held, before
        )

    def hidden(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """What the layer puts out."""
        seen: list[Tensor] = []
        handle = model.get_submodule(LAYER).register_forward_hook(
            lambda _module, _inputs, output: seen.append(output)
        )
        model(input_ids=tokens)
        handle.remove()
        return seen[0]


PLAIN: dict[str, Callable[[PlainLoop], Tensor]] = {
    "grad_diff": PlainLoop.grad_diff,
    "grad_diff_kl": PlainLoop.grad_diff_kl,
    "npo": PlainLoop.npo,
    "rmu": PlainLoop.rmu,
    "rmu_last_layer": PlainLoop.rmu,
}


def whole_nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """Negative log likelihood of each record, summed over its tokens: (n,) nats."""
    each = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
    )
    return each.view(len(tokens), -1).sum(-1)


if __name__ == "__main__":
    main()
