import pytest
from sklearn.datasets import load_digits

from tests.unlearn.plain_cases import NOTES, context_of, lm
from tests.unlearn.unlearn_cases import Rows, Training, digits_task, lm_params
from workers.recipes import make_task
from workers.unlearn.method import Context
from workers.unlearn.seeds import deterministic
from workers.unlearn.task import Task


@pytest.fixture(scope="session", autouse=True)
def _deterministic() -> None:
    deterministic()


@pytest.fixture(scope="session")
def digit_rows() -> Rows:
    digits = load_digits()
    return [
        {**{f"pixel_{i}": float(p) for i, p in enumerate(pixels)}, "digit": int(label)}
        for pixels, label in zip(digits.data, digits.target, strict=True)
    ]


@pytest.fixture
def train() -> Training:
    return Training()


@pytest.fixture
def task() -> Task:
    return digits_task()


@pytest.fixture
def cnn_task() -> Task:
    return digits_task(
        network="cnn",
        channels=[2, 3],
        training={"epochs": 2, "batch_size": 4, "optimizer": "sgd", "weight_decay": 0.01},
    )


@pytest.fixture
def lm_task() -> Task:
    return make_task("causal_lm", lm_params())


@pytest.fixture(params=["classifier", "causal_lm"])
def context(request: pytest.FixtureRequest, digit_rows: Rows) -> Context:
    if request.param == "classifier":
        return context_of(digits_task(), digit_rows[:10])
    return context_of(lm(), NOTES)
