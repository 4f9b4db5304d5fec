import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from lethe.recipes.local_folder import folder_digest
from tests.unlearn.unlearn_cases import Rows, Training, lm_params, same
from workers.recipes import make_task
from workers.unlearn.sisa import restore
from workers.unlearn.state import TrainingState, read_model, write_model
from workers.unlearn.task import IGNORED, Task

NOTES: Rows = [
    {"note": "a short note"},
    {"note": "a note that is longer than the model can take in"},
    {"note": ""},
    {"note": "Grüße"},
]


def test_text_becomes_bytes_between_beginning_and_end(lm_task: Task) -> None:
    examples = lm_task.encode(NOTES)
    assert examples["tokens"].shape == (4, 24)
    assert examples["length"].tolist() == [14, 24, 2, 9]
    assert examples["tokens"][3].tolist() == [256, *"Grüße".encode(), 257, *[258] * 15]
    assert examples["tokens"][1].tolist() == [256, *str(NOTES[1]["note"])[:23].encode()]


def test_no_rows_give_no_examples(lm_task: Task) -> None:
    examples = lm_task.encode([])
    assert examples["tokens"].shape == (0, 24)
    assert examples["length"].shape == (0,)
    assert examples["tokens"].dtype == torch.int64


def test_a_row_without_text_names_the_column_only(lm_task: Task) -> None:
    for row in ({"note": 4711}, {"other": "4711"}, {"note": None}):
        with pytest.raises(ValueError, match="column 'note' must hold a text") as caught:
            lm_task.encode([row])
        assert "4711" not in str(caught.value)


def test_text_that_is_no_unicode_is_still_encoded(lm_task: Task) -> None:
    assert lm_task.encode([{"note": "\ud800"}])["tokens"][0, :3].tolist() == [256, ord("?"), 257]


def test_losses_and_accuracies_equal_a_loop_over_tokens(lm_task: Task) -> None:
    examples, model = lm_task.encode(NOTES), lm_task.build(3).eval()
    losses, accuracies = [], []
    for tokens, length in zip(examples["tokens"], examples["length"].tolist(), strict=True):
        nll, right = [], []
        for place in range(1, length):
            logits = model(input_ids=tokens[:place].unsqueeze(0)).logits[0, -1]
            nll.append(-logits.log_softmax(-1)[tokens[place]].item())
            right.append(float(logits.argmax() == tokens[place]))
        losses.append(sum(nll) / len(nll))
        accuracies.append(sum(right) / len(right))
    torch.testing.assert_close(lm_task.losses(model, examples), torch.tensor(losses))
    torch.testing.assert_close(lm_task.accuracies(model, examples), torch.tensor(accuracies))


def test_the_loss_of_a_record_is_that_of_transformers(lm_task: Task) -> None:
    examples, model = lm_task.encode(NOTES), lm_task.build(3).eval()
    labels = examples["tokens"].clone()
    labels[torch.arange(24) >= examples["length"].unsqueeze(1)] = IGNORED
    mine = lm_task.losses(model, examples)
    for i in range(len(NOTES)):
        theirs = model(input_ids=examples["tokens"][i : i + 1], labels=labels[i : i + 1]).loss
        torch.testing.assert_close(mine[i], theirs)


def test_padding_changes_no_loss(lm_task: Task) -> None:
    examples, model = lm_task.encode(NOTES), lm_task.build(3).eval()
    expected = lm_task.losses(model, examples)
    examples["tokens"][torch.arange(24) >= examples["length"].unsqueeze(1)] = 65
    torch.testing.assert_close(lm_task.losses(model, examples), expected)


def test_training_lowers_the_loss_and_a_tied_weight_is_stored_once(
    lm_task: Task, train: Training
) -> None:
    examples = lm_task.encode(NOTES)
    state = train(lm_task, [examples])
    assert "transformer.wte.weight" in state.model
    assert "lm_head.weight" not in state.model
    model = restore(lm_task, state, seed="model-1", shard=2)
    assert torch.equal(model.get_parameter("lm_head.weight"), state.model["transformer.wte.weight"])
    fresh = lm_task.build(0).eval()
    assert lm_task.losses(model, examples).mean() < lm_task.losses(fresh, examples).mean()


@pytest.fixture
def lora_task() -> Task:
    return make_task(
        "causal_lm", lm_params() | {"lora": {"r": 2, "alpha": 4, "target_modules": ["c_attn"]}}
    )


def test_lora_trains_and_stores_adapters_only(lora_task: Task, train: Training) -> None:
    state = train(lora_task, [lora_task.encode(NOTES)])
    assert len(state.model) == 4
    assert all(".lora_A." in name or ".lora_B." in name for name in state.model)
    assert all(".lora_" in name for name in state.optimizer)
    fresh = train(lora_task, [lora_task.encode([])])
    assert not any(torch.equal(state.model[name], fresh.model[name]) for name in fresh.model)
    model = restore(lora_task, state, seed="model-1", shard=2)
    untrained = dict(restore(lora_task, fresh, seed="model-1", shard=2).named_parameters())
    differing = {n for n, p in model.named_parameters() if not torch.equal(p, untrained[n])}
    assert differing == set(state.model)


def test_fresh_adapters_change_nothing(lora_task: Task) -> None:
    model, examples = lora_task.build(5).eval(), lora_task.encode(NOTES)
    expected = lora_task.losses(model, examples)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            nn.init.zeros_(parameter)
    torch.testing.assert_close(lora_task.losses(model, examples), expected)


def test_lora_resumes_to_the_same_bits(lora_task: Task, train: Training) -> None:
    slices = [lora_task.encode(NOTES[:2]), lora_task.encode(NOTES[2:])]
    whole = train(lora_task, slices)
    assert same(train(lora_task, slices, resume=(0, train.checkpoints[0])), whole)


def test_a_build_depends_on_its_seed_alone(lora_task: Task) -> None:
    first, again, other = (lora_task.build(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = AutoConfig.for_model(
        "gpt2", n_layer=1, n_head=2, n_embd=8, n_positions=32, vocab_size=259
    )
    folder = tmp_path / "base"
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return folder


def from_checkpoint(folder: Path, sha256: str) -> Task:
    return make_task(
        "causal_lm",
        lm_params() | {"config": None, "checkpoint": {"path": str(folder), "sha256": sha256}},
    )


def test_a_model_starts_from_a_local_checkpoint(checkpoint: Path) -> None:
    task = from_checkpoint(checkpoint, folder_digest(checkpoint))
    saved = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    built = task.build(0).state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in saved.state_dict().items())


def test_a_changed_or_missing_checkpoint_is_refused(checkpoint: Path) -> None:
    task = from_checkpoint(checkpoint, folder_digest(checkpoint))
    (checkpoint / "extra.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold the files that the recipe names"):
        task.build(0)
    shutil.rmtree(checkpoint)
    with pytest.raises(FileNotFoundError, match="missing on this machine"):
        task.build(0)


def test_a_folder_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = folder_digest(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({before, renamed, folder_digest(tmp_path)}) == 3


def test_a_local_tokenizer_is_used(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "a": 2, "note": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="?"
    ).save_pretrained(tmp_path)
    folder = {"path": str(tmp_path), "sha256": folder_digest(tmp_path)}
    task = make_task("causal_lm", lm_params() | {"tokenizer": folder, "max_tokens": 6})
    examples = task.encode([{"note": "a short note"}])
    assert examples["tokens"].tolist() == [[0, 2, 4, 3, 1, 1]]
    assert examples["length"].tolist() == [5]
    assert task.losses(task.build(0), examples).shape == (1,)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold the files"):
        make_task("causal_lm", lm_params() | {"tokenizer": folder})


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    folder = {"path": str(tmp_path), "sha256": folder_digest(tmp_path)}
    with pytest.raises(ValueError, match="no end-of-text token"):
        make_task("causal_lm", lm_params() | {"tokenizer": folder})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 33}, "more than the model's 32 positions"),
        (
            {"config": {"model_type": "gpt2", "n_embd": 12, "vocab_size": 100}},
            "vocabulary of at least 259",
        ),
    ],
)
def test_a_model_too_small_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("causal_lm", lm_params() | changes).build(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": {"n_layer": 1}},
        {"checkpoint": {"path": "/models/base", "sha256": "0" * 64}},
        {"checkpoint": {"path": "/models/base", "sha256": "short"}, "config": None},
        {"max_tokens": 1},
        {"lora": {"target_modules": []}},
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make_task("causal_lm", lm_params() | changes)


def test_a_written_state_is_read_again(lora_task: Task) -> None:
    one, two = lora_task.build(1), lora_task.build(2)
    write_model(two, read_model(one))
    assert same(TrainingState(read_model(one), {}), TrainingState(read_model(two), {}))
