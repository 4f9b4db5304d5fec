"""Models, records and batches for plain versions: one record at a time, the model alone."""

import torch
from torch import Tensor, nn

from tests.unlearn.unlearn_cases import Rows, lm_params
from workers.recipes import make_task
from workers.unlearn.descent import Batch, Descent
from workers.unlearn.method import Context
from workers.unlearn.task import Examples, Task, take

NOTES: Rows = [{"note": "no" * i + str(i)} for i in range(10)]
CPU = torch.device("cpu")


def lm() -> Task:
    config = {
        "model_type": "gpt2",
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 16,
        "n_positions": 32,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    return make_task("causal_lm", lm_params() | {"config": config})


def context_of(task: Task, rows: Rows) -> Context:
    examples = task.encode(rows)
    forget = {name: tensor[:4] for name, tensor in examples.items()}
    retain = {name: tensor[4:] for name, tensor in examples.items()}
    return Context(task, task.build(3), forget, retain, "run-1")


def shaken(model: nn.Module) -> None:
    """Move the model away from where it was when the method was prepared."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


Record = tuple[Tensor, Tensor]


def record(model: nn.Module, examples: Examples, i: int) -> Record:
    """Logits (T, K) and targets (T,) of one record without its padding, by the model alone."""
    if "x" in examples:
        return model(examples["x"][i : i + 1]), examples["y"][i : i + 1]
    tokens = examples["tokens"][i, : int(examples["length"][i])]
    return model(input_ids=tokens[None, :-1]).logits[0], tokens[1:]


def nll(one: Record) -> Tensor:
    logits, targets = one
    return -sum(
        (p[t] for p, t in zip(logits.log_softmax(-1), targets, strict=True)), torch.zeros(())
    )


def mean_of(one: Record) -> Tensor:
    return nll(one) / len(one[1])


def kl(before: Record, now: Record, temperature: float = 1.0) -> Tensor:
    total = torch.zeros(())
    for old, new in zip(before[0], now[0], strict=True):
        p, q = (old / temperature).softmax(-1), (new / temperature).softmax(-1)
        total = total + (p * (p.log() - q.log())).sum()
    return temperature**2 * total / len(now[1])


def a_batch(descent: Descent, step: int) -> Batch:
    forget_at, retain_at = torch.tensor([2, 0, 3]), torch.tensor([5, 1])
    sets = descent.context
    return Batch(
        step,
        take(sets.forget, forget_at, CPU),
        take(sets.retain, retain_at, CPU),
        forget_at,
        retain_at,
    )
