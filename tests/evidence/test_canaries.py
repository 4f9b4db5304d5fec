import re

import numpy as np
import pytest

from tests.unlearn.unlearn_cases import Training
from workers.attacks.canaries import exposures, like
from workers.evidence.shift import NotApplicable
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble, ensemble
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import restore
from workers.unlearn.task import Task

TINY = {
    "text": "text",
    "config": {
        "model_type": "gpt2",
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 32,
        "n_positions": 24,
        "resid_pdrop": 0,
        "embd_pdrop": 0,
        "attn_pdrop": 0,
    },
    "max_tokens": 24,
    "training": {"epochs": 60, "learning_rate": 1e-2, "batch_size": 8},
}


def rows(first: int, many: int) -> list[dict[str, object]]:
    draws = np.random.default_rng(first)
    cards = ["".join(map(str, draws.integers(10, size=4))) for _ in range(many)]
    return [{"text": f"{chr(65 + i)}x card {card}.", "card": card} for i, card in enumerate(cards)]


@pytest.fixture(scope="module")
def task() -> Task:
    deterministic()
    return make_task("causal_lm", TINY)


@pytest.fixture(scope="module")
def model(task: Task) -> Ensemble:
    state = Training()(task, [task.encode(rows(0, 8))])
    return ensemble(task, [(8, restore(task, state, seed="model-1", shard=2))])


def test_secrets_learnt_by_heart_stand_out_and_others_do_not(model: Ensemble) -> None:
    learnt = exposures(model, rows(0, 8), "card", references=63, seed=1)
    never = exposures(model, rows(9, 8), "card", references=63, seed=1)
    assert np.median(learnt) > 5
    assert np.median(never) < 3
    assert learnt.max() <= 6 + 1e-9


def test_secrets_of_any_script_have_others_of_their_shape() -> None:
    draws = np.random.default_rng(0)
    for secret, shape in (
        ("Ab 12-x", r"[A-Z][a-z] \d\d-[a-z]"),
        ("\u0443\u043b\u0438\u0446\u0430 5", r"[\u0430-\u045f]{5} \d"),
        ("Ørsted", r"[À-Þ][a-z]{5}"),
        ("東京", r"[\u4e00-\u9fff]{2}"),
    ):
        others = {like(secret, draws) for _ in range(50)}
        assert len(others) > 40
        assert all(re.fullmatch(shape, one) for one in others), others


def test_exposure_is_the_rank_among_strings_of_the_same_shape(model: Ensemble) -> None:
    (row,) = rows(3, 1)
    again = exposures(model, [row, row], "card", references=15, seed=4)
    assert set(np.round(2 ** (4 - again))) <= set(range(1, 17))
    assert exposures(model, [row], "card", references=15, seed=4)[0] == again[0]


def test_a_text_without_its_secret_is_refused_and_not_told(model: Ensemble) -> None:
    with pytest.raises(ValueError, match="does not hold what its card says") as caught:
        exposures(model, [{"text": "card 1234.", "card": "9876"}], "card", references=3, seed=1)
    assert "9876" not in str(caught.value)
    with pytest.raises(ValueError, match="no record"):
        exposures(model, [], "card", references=3, seed=1)


def test_a_model_of_numbers_has_no_secrets() -> None:
    task = make_task("classifier", {"features": ["x"], "label": "y", "classes": 2})
    with pytest.raises(NotApplicable, match="no text"):
        exposures(ensemble(task, [(1, task.build(1))]), [{"x": 1.0, "y": 1}], "x", seed=1)
