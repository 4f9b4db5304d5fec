"""Does a little training bring back what was to be forgotten?

Lynch et al. 2024 ("Eight Methods to Evaluate Robust Unlearning in LLMs", arXiv 2402.16835) and Hu
et al. 2024 ("Jogging the Memory of Unlearned LLMs Through Targeted Relearning Attacks", arXiv
2406.13356): what was only suppressed returns after a few steps on neighbouring data.

Whoever was never seen learns as well, by what records have in common. So forgotten and holdout are
taught and tested exactly alike, and only the difference between them is evidence.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from workers.evidence.shift import NotApplicable
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import Examples, Fitted, Task, count, take

Places = npt.NDArray[np.int64]

_MAX_NORM = 1.0
_LEAST_HOLDOUT = 20
_LEAST_P = 0.01


class Split(NamedTuple):
    """Which records are taught and which are tested, as places in their sets.

    Attributes:
        teach_forget, teach_holdout: what is taught; where both are empty, the retain set is.
        test_forget, test_holdout: what is tested; never taught.
    """

    teach_forget: Places
    teach_holdout: Places
    test_forget: Places
    test_holdout: Places


def split_for_relearning(
    forget_subjects: npt.ArrayLike, holdout_subjects: npt.ArrayLike, seed: int
) -> Split:
    """Choose what is taught and what is tested, by one rule for both sides.

    Where most of the forgotten have two records or more, half of each one's records (rounded down)
    is taught and the rest tested, and so for as many data subjects of the holdout, at least 20,
    drawn at random; whoever has one record only is left out on both sides. Where too few are left
    for a p-value below 1 %, the retain set is to be taught, and every record is tested.

    Args:
        forget_subjects: (n,) whose the records to forget are, as opaque numbers.
        holdout_subjects: (m,) the same of the holdout.
        seed: of the halves and of the data subjects drawn.

    Raises:
        ValueError: a set is empty.
    """
    ours, others = np.asarray(forget_subjects), np.asarray(holdout_subjects)
    if not ours.size or not others.size:
        raise ValueError("relearning compares two sets, and neither may be empty")
    draws = np.random.default_rng(seed)
    forgotten, reference = _with_two(ours), _with_two(others)
    drawn = min(reference.size, max(forgotten.size, _LEAST_HOLDOUT))
    most = 2 * forgotten.size > np.unique(ours).size
    if not most or 2 / math.comb(forgotten.size + drawn, drawn) >= _LEAST_P:
        nothing = np.empty(0, dtype=np.int64)
        return Split(nothing, nothing, np.arange(ours.size), np.arange(others.size))
    chosen = draws.permutation(reference)[:drawn]
    teach_forget, test_forget = _halves(ours, forgotten, draws)
    teach_holdout, test_holdout = _halves(others, chosen, draws)
    return Split(teach_forget, teach_holdout, test_forget, test_holdout)


def relearnt(
    model: Ensemble, teach: Examples, *, steps: int, learning_rate: float, seed: int
) -> Ensemble:
    """Copy a model and fine-tune every member on `teach` for a few steps.

    AdamW without weight decay, with the task's batch size and gradients clipped to norm 1; all
    weights that training moves are moved. Bit for bit the same for the same seed; the model itself
    stays as it is.

    Args:
        model: what is taught.
        teach: the records to teach.
        steps: how many batches each member is given; 0 gives a plain copy.
        learning_rate: of AdamW.
        seed: of the batches and of dropout.

    Raises:
        NotApplicable: the model learns by means of its own, without steps down a gradient, or the
            training diverged.
        ValueError: there is nothing to teach.
    """
    if not count(teach):
        raise ValueError("relearning needs a record to teach")
    members = tuple(copy.deepcopy(member) for member in model.members)
    trainable = all(any(p.requires_grad for p in member.parameters()) for member in members)
    if isinstance(model.task, Fitted) or not trainable:
        raise NotApplicable("the model does not learn by steps down a gradient")
    for member in members:
        _teach(model.task, member, teach, steps, learning_rate, seed)
        if not all(weight.isfinite().all() for weight in member.parameters()):
            raise NotApplicable("relearning diverged; policy can set a smaller relearning_rate")
    return replace(model, members=members)


def _with_two(subjects: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    numbers, records = np.unique(subjects, return_counts=True)
    found: npt.NDArray[np.int64] = numbers[records >= 2]
    return found


def _halves(
    subjects: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64], draws: np.random.Generator
) -> tuple[Places, Places]:
    """Places taught and places tested of the chosen data subjects, each in ascending order."""
    order = draws.permutation(np.flatnonzero(np.isin(subjects, chosen)))
    order = order[np.argsort(subjects[order], kind="stable")]
    _, starts, records = np.unique(subjects[order], return_index=True, return_counts=True)
    within = np.arange(order.size) - np.repeat(starts, records)
    taught = within < np.repeat(records // 2, records)
    return np.sort(order[taught]), np.sort(order[~taught])


def _teach(
    task: Task, member: nn.Module, teach: Examples, steps: int, learning_rate: float, seed: int
) -> None:
    weights = [weight for weight in member.parameters() if weight.requires_grad]
    optimizer = AdamW(weights, lr=learning_rate, weight_decay=0.0)
    device = weights[0].device
    draws = torch.Generator().manual_seed(seed)
    for batch in islice(_batches(count(teach), task.training.batch_size, draws), steps):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=draws)))
            loss = task.losses(member.train(), take(teach, batch, device)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, _MAX_NORM)
        optimizer.step()


def _batches(size: int, batch: int, draws: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.split(torch.randperm(size, generator=draws), batch)
