import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from lethe.recipes.training import TrainingParams
from tests.unlearn.unlearn_cases import Rows, Training, same
from workers.unlearn.seeds import seed_for
from workers.unlearn.sisa import (
    Cancelled,
    TrainingDiverged,
    checkpoint_chain,
    epochs_per_slice,
    restore,
    slice_digest,
    train_shard,
)
from workers.unlearn.state import TrainingState
from workers.unlearn.task import Examples, Task


def shards_of(owners: Sequence[int], shards: int, slices: int) -> list[list[list[int]]]:
    """Row numbers by shard and slice: people stay together, the last slice takes the remainder."""
    placed = []
    for shard in range(shards):
        people = sorted({owner for owner in owners if owner % shards == shard})
        size = len(people) // slices
        cuts = [r * size for r in range(slices)] + [len(people)]
        groups = [people[cuts[r] : cuts[r + 1]] for r in range(slices)]
        placed.append([[i for i, o in enumerate(owners) if o in group] for group in groups])
    return placed


def encode(task: Task, rows: Rows, slices: Sequence[Sequence[int]]) -> list[Examples]:
    return [task.encode([rows[i] for i in part]) for part in slices]


@pytest.mark.parametrize(
    ("people", "rows_each", "shards", "slices"),
    [
        pytest.param(10, 3, 1, 1, id="ordinary training"),
        pytest.param(11, 3, 2, 3, id="remainder in the last slice"),
        pytest.param(7, 2, 3, 2, id="rows not divisible by shards and slices"),
        pytest.param(5, 2, 3, 4, id="empty slices"),
        pytest.param(3, 2, 5, 2, id="more shards than people"),
    ],
)
@pytest.mark.parametrize("kind", ["task", "cnn_task"])
def test_erasing_any_person_from_a_checkpoint_equals_training_without_them(
    people: int,
    rows_each: int,
    shards: int,
    slices: int,
    kind: str,
    digit_rows: Rows,
    request: pytest.FixtureRequest,
) -> None:
    task: Task = request.getfixturevalue(kind)
    owners = [i % people for i in range(people * rows_each)]
    placed = shards_of(owners, shards, slices)
    assert sorted(i for shard in placed for part in shard for i in part) == list(range(len(owners)))
    for shard, parts in enumerate(placed):
        checkpoints: dict[int, TrainingState] = {}
        run(task, encode(task, digit_rows, parts), shard, None, checkpoints)
        for person in {owners[i] for part in parts for i in part}:
            hit = next(r for r, part in enumerate(parts) if any(owners[i] == person for i in part))
            kept = encode(
                task, digit_rows, [[i for i in part if owners[i] != person] for part in parts]
            )
            resume = (hit - 1, checkpoints[hit - 1]) if hit else None
            continued = run(task, kept, shard, resume, {})
            assert same(continued, run(task, kept, shard, None, {}))
            assert not same(continued, checkpoints[len(parts) - 1])


def run(
    task: Task,
    slices: Sequence[Examples],
    shard: int,
    resume: tuple[int, TrainingState] | None,
    checkpoints: dict[int, TrainingState],
) -> TrainingState:
    return train_shard(
        task,
        slices,
        seed="model-1",
        shard=shard,
        resume=resume,
        on_checkpoint=checkpoints.__setitem__,
        on_progress=lambda share: None,
        cancelled=lambda: False,
    )


@pytest.mark.parametrize("kind", ["task", "cnn_task"])
def test_resuming_from_each_checkpoint_gives_the_same_bits(
    kind: str, digit_rows: Rows, request: pytest.FixtureRequest, train: Training
) -> None:
    task: Task = request.getfixturevalue(kind)
    slices = encode(task, digit_rows, [range(5), range(5, 12), [], range(12, 19)])
    whole = train(task, slices)
    assert list(train.checkpoints) == [0, 1, 2, 3]
    for r, state in dict(train.checkpoints).items():
        stored = TrainingState.from_tensors({k: v.clone() for k, v in state.tensors().items()})
        assert same(train(task, slices, resume=(r, stored)), whole)


def test_text_with_dropout_resumes_to_the_same_bits(lm_task: Task, train: Training) -> None:
    notes: Rows = [{"note": f"patient {i} was seen"[: 9 + i]} for i in range(9)]
    slices = [lm_task.encode(notes[:4]), lm_task.encode(notes[4:])]
    assert any(isinstance(m, nn.Dropout) and m.p > 0 for m in lm_task.build(0).modules())
    whole = train(lm_task, slices)
    assert same(train(lm_task, slices, resume=(0, train.checkpoints[0])), whole)


def test_training_leaves_the_callers_random_numbers_alone(
    task: Task, digit_rows: Rows, train: Training
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(task, encode(task, digit_rows, [range(9)]))
    assert torch.equal(torch.rand(3), expected)


def test_one_slice_equals_a_plain_training_loop(
    task: Task, digit_rows: Rows, train: Training
) -> None:
    examples = task.encode(digit_rows[:10])
    trained = train(task, [examples])

    model = task.build(seed_for("model-1", "build", 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for epoch in range(3):
        generator = torch.Generator().manual_seed(seed_for("model-1", "order", 2, 0, epoch))
        order = torch.randperm(10, generator=generator).tolist()
        for batch in (order[:4], order[4:8], order[8:]):
            optimizer.zero_grad()
            logits = model(examples["x"][batch])
            nn.functional.cross_entropy(logits, examples["y"][batch]).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trained.model[name], parameter.detach())


@dataclass
class Listening:
    """A task of two weights that notes which records each batch holds."""

    seen: list[int] = field(default_factory=list)
    training: TrainingParams = field(default_factory=lambda: TrainingParams(epochs=4, batch_size=3))

    def build(self, seed: int) -> nn.Module:
        return nn.Linear(1, 2)

    def encode(self, rows: Sequence[Mapping[str, object]]) -> Examples:
        return {"x": torch.tensor([[float(str(row["x"]))] for row in rows]).reshape(-1, 1)}

    def log_distribution(self, model: nn.Module, examples: Examples) -> Tensor:
        self.seen += examples["x"].flatten().int().tolist()
        logits: Tensor = model(examples["x"])
        return logits.log_softmax(-1).unsqueeze(1)

    def targets(self, examples: Examples) -> Tensor:
        return torch.zeros(len(examples["x"]), 1, dtype=torch.int64)

    def losses(self, model: nn.Module, examples: Examples) -> Tensor:
        return -self.log_distribution(model, examples)[:, 0, 0]

    def accuracies(self, model: nn.Module, examples: Examples) -> Tensor:
        return torch.zeros(len(examples["x"]))


@pytest.mark.parametrize("sizes", [[1], [7], [5, 0, 3], [0, 4], [2, 2, 2, 1]])
def test_every_record_is_seen_as_often_as_the_schedule_says(
    sizes: list[int], train: Training
) -> None:
    task = Listening()
    numbers = iter(range(100))
    slices = [task.encode([{"x": next(numbers)} for _ in range(size)]) for size in sizes]
    train(task, slices)
    epochs = epochs_per_slice(4, len(sizes))
    first = 0
    for r, size in enumerate(sizes):
        for record in range(first, first + size):
            assert task.seen.count(record) == epochs * (len(sizes) - r)
        first += size
    assert len(train.progress) == len(set(train.progress)) + 1
    assert train.progress == sorted(train.progress)
    assert train.progress[-1] == 1.0


@pytest.mark.parametrize(
    ("epochs", "slices", "expected"), [(20, 1, 20), (20, 3, 10), (20, 4, 8), (3, 3, 2), (1, 9, 1)]
)
def test_epochs_per_slice(epochs: int, slices: int, expected: int) -> None:
    assert epochs_per_slice(epochs, slices) == expected


def test_an_emptied_shard_is_the_untrained_model(task: Task, train: Training) -> None:
    empty = task.encode([])
    state = train(task, [empty, empty])
    fresh = task.build(seed_for("model-1", "build", 2))
    assert state.optimizer == {}
    assert all(torch.equal(state.model[k], v) for k, v in fresh.state_dict().items())
    assert same(train.checkpoints[0], train.checkpoints[1])
    assert train.progress == [1.0]


def test_restore_gives_the_trained_model(task: Task, digit_rows: Rows, train: Training) -> None:
    examples = task.encode(digit_rows[:30])
    model = restore(task, train(task, [examples]), seed="model-1", shard=2)
    fresh = task.build(seed_for("model-1", "build", 2))
    assert task.losses(model, examples).mean() < task.losses(fresh, examples).mean()
    assert not model.training


def test_a_state_of_another_network_is_refused(
    task: Task, cnn_task: Task, digit_rows: Rows, train: Training
) -> None:
    state = train(task, [task.encode(digit_rows[:4])])
    with pytest.raises(ValueError, match="does not fit the model"):
        restore(cnn_task, state, seed="model-1", shard=2)
    with pytest.raises(ValueError, match="only the keys"):
        TrainingState.from_tensors({"weights": torch.zeros(1)})
    foreign = TrainingState(state.model, {"exp_avg.9.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="optimiser state does not fit"):
        train(task, [task.encode(digit_rows[:4])] * 2, resume=(0, foreign))


@pytest.mark.parametrize("done", [-2, 1, 5])
def test_resume_after_a_slice_that_is_not_there_is_refused(
    done: int, task: Task, digit_rows: Rows, train: Training
) -> None:
    slices = [task.encode(digit_rows[:4])]
    state = train(task, slices)
    with pytest.raises(ValueError, match="cannot go on after slice"):
        train(task, slices, resume=(done, state))
    with pytest.raises(ValueError, match="cannot go on after slice"):
        train(task, [])


def test_a_cancelled_training_stops_before_the_next_step(task: Task, digit_rows: Rows) -> None:
    progress: list[float] = []
    with pytest.raises(Cancelled):
        train_shard(
            task,
            [task.encode(digit_rows[:12])],
            seed="s",
            shard=0,
            resume=None,
            on_checkpoint=lambda r, state: None,
            on_progress=progress.append,
            cancelled=lambda: len(progress) == 2,
        )
    assert len(progress) == 2


def test_a_loss_that_is_not_finite_ends_the_training(
    task: Task, digit_rows: Rows, train: Training
) -> None:
    examples = task.encode(digit_rows[:4])
    examples["x"][1, 3] = torch.inf
    with pytest.raises(TrainingDiverged):
        train(task, [examples])
    assert not train.checkpoints


def test_slice_digest_ignores_order_and_keeps_duplicates() -> None:
    records = [hashlib.sha256(bytes([i])).digest() for i in range(5)]
    assert slice_digest(records) == slice_digest(records[::-1])
    assert slice_digest([*records, records[0]]) != slice_digest(records)
    assert slice_digest([b"ab", b"c"]) != slice_digest([b"a", b"bc"])
    assert len(slice_digest([])) == 64


def chain(slices: list[str], **changes: object) -> tuple[str, ...]:
    digests = [slice_digest([part.encode()]) for part in slices]
    start = {"recipe": "r", "environment": "e", "seed": "s", "shard": 0} | changes
    return checkpoint_chain(slice_digests=digests, **start)  # type: ignore[arg-type]


def test_checkpoint_chain_follows_its_definition() -> None:
    start = {"environment": "e", "recipe": "r", "seed": "s", "shard": 0, "slices": 2}
    canonical = json.dumps(start, sort_keys=True, separators=(",", ":")).encode()
    link = hashlib.sha256(canonical).digest()
    expected = []
    for part in (b"a", b"b"):
        link = hashlib.sha256(link + bytes.fromhex(slice_digest([part]))).digest()
        expected.append(link.hex())
    assert chain(["a", "b"]) == tuple(expected)


def test_checkpoint_chain_changes_from_the_changed_slice_on() -> None:
    before, after = chain(["a", "b", "c"]), chain(["a", "x", "c"])
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2] != after[2]


@pytest.mark.parametrize(
    "changes", [{"recipe": "q"}, {"environment": "f"}, {"seed": "t"}, {"shard": 1}]
)
def test_checkpoint_chain_depends_on_all_else(changes: dict[str, object]) -> None:
    assert not set(chain(["a", "b"], **changes)) & set(chain(["a", "b"]))


def test_checkpoint_chain_depends_on_the_number_of_slices() -> None:
    # The number of slices sets the epochs of each, also of the first.
    assert chain(["a", "b"])[0] != chain(["a"])[0]
