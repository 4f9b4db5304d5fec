"""Does a model still know inside what its answers no longer show?

Lynch et al. 2024 ("Eight Methods to Evaluate Robust Unlearning in LLMs", arXiv 2402.16835), latent
knowledge: a linear probe (Alain and Bengio 2016, arXiv 1610.01644) learns what a record that was
trained on looks like inside, from records that were and people that were not, and is then asked
about the forgotten and about other people that were not. Neither was learned from, so that
`attack_evidence` applies. The unsupervised probe of that paper is not made here.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from workers.evidence.shift import NotApplicable
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.task import Examples, Task, count, mean_nll, take

Features = npt.NDArray[np.float64]

_STRENGTH = 0.01
"""Of the data against the penalty: there are often more features than records."""


class Probed(NamedTuple):
    """What the probe says: the higher, the more like a record that was trained on.

    Attributes:
        forget: (n,) of the records to forget.
        holdout: (k,) of the holdout records in `tested`.
        tested: (k,) their places in the holdout; the others were learned from.
    """

    forget: npt.NDArray[np.float64]
    holdout: npt.NDArray[np.float64]
    tested: npt.NDArray[np.int64]


def probe(
    model: Ensemble,
    forget: Examples,
    retain: Examples,
    holdout: Examples,
    holdout_subjects: npt.ArrayLike,
    *,
    seed: int,
) -> Probed:
    """Train a logistic probe on the retain set against half of the holdout, and ask the rest.

    Args:
        model: what is looked into.
        forget: the records to forget.
        retain: records that the model was trained on.
        holdout: (m,) records never seen, of other people than the forgotten.
        holdout_subjects: (m,) whose they are, as opaque numbers.
        seed: of the halves, which are of data subjects.

    Raises:
        NotApplicable: the holdout has one data subject only.
        ValueError: a set is empty, lengths differ, or a feature is not finite.
    """
    subjects = np.asarray(holdout_subjects)
    if not all(map(count, (forget, retain, holdout))) or subjects.shape != (count(holdout),):
        raise ValueError("a probe needs records to forget, retained ones, and a holdout's owners")
    numbers = np.unique(subjects)
    if numbers.size < 2:
        raise NotApplicable("the holdout has one data subject, which cannot be halved")
    order = np.random.default_rng(seed).permutation(numbers)
    learned = np.isin(subjects, order[: numbers.size // 2])
    members, others = hidden_features(model, retain), hidden_features(model, holdout)
    asked = hidden_features(model, forget)
    if not all(np.isfinite(part).all() for part in (members, others, asked)):
        raise ValueError("a feature is NaN or infinite; look at the model's weights")
    fitted = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=10_000),
    ).fit(
        np.concatenate([members, others[learned]]),
        np.repeat([1, 0], [len(members), int(learned.sum())]),
    )
    return Probed(
        fitted.decision_function(asked),
        fitted.decision_function(others[~learned]),
        np.flatnonzero(~learned),
    )


def hidden_features(model: Ensemble, examples: Examples) -> Features:
    """What each member makes of each record inside: (n, features), member after member.

    Of a model with a stack of layers, the mean over the record's tokens, but the last, of what the
    middle layer gives. Of any other, its loss and its log probabilities.
    """
    parts = [_member_features(model.task, member, examples) for member in model.members]
    return np.concatenate(parts, axis=1)


def _member_features(task: Task, member: nn.Module, examples: Examples) -> Features:
    member.eval()
    device = next(member.parameters()).device
    stacks = [module for module in member.modules() if isinstance(module, nn.ModuleList)]
    layer = max(stacks, key=len, default=nn.ModuleList())
    batches = torch.split(torch.arange(count(examples)), task.training.batch_size)
    with torch.inference_mode():
        found = []
        for batch in batches:
            part = take(examples, batch, device)
            if len(layer) and "length" in part:
                found.append(_middle(task, member, layer[len(layer) // 2], part))
            else:
                found.append(_outside(task, member, part))
        features: Features = torch.cat(found).double().cpu().numpy()
    return features


def _middle(task: Task, member: nn.Module, layer: nn.Module, examples: Examples) -> Tensor:
    """Mean over tokens of what a layer gives: (n, width)."""
    given: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        given.append(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(keep)
    try:
        task.log_distribution(member, examples)
    finally:
        handle.remove()
    hidden = given[0]
    # A language model is not shown the last token of the longest record, so of none.
    tokens = (examples["length"] - 1).clamp(min=1)
    counted = torch.arange(hidden.shape[1], device=hidden.device) < tokens.unsqueeze(1)
    return (hidden * counted.unsqueeze(-1)).sum(1) / counted.sum(1, keepdim=True)


def _outside(task: Task, member: nn.Module, examples: Examples) -> Tensor:
    """Loss and log probabilities: (n, 1 + predictions · classes)."""
    log_distribution = task.log_distribution(member, examples)
    loss = mean_nll(log_distribution, task.targets(examples)).unsqueeze(1)
    return torch.cat([loss, log_distribution.flatten(1).to(loss)], dim=1)
