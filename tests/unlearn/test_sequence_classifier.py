import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from lethe.recipes.local_folder import folder_digest
from lethe.recipes.sequence_classifier import SPEC, SequenceClassifierParams
from tests.unlearn.unlearn_cases import Rows, Training, same
from workers.recipes.sequence_classifier import SequenceClassifier, make_sequence_classifier
from workers.unlearn.sisa import restore
from workers.unlearn.task import Examples, Task

DECODER = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32}
ENCODER = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
PARAMS: dict[str, object] = {
    "text": "note",
    "label": "ward",
    "classes": 3,
    "config": DECODER,
    "max_tokens": 24,
    "training": {"epochs": 2, "batch_size": 3, "learning_rate": 0.01},
}
NOTES: Rows = [
    {"note": "a short note", "ward": 0},
    {"note": "a note that is longer than the model can take in", "ward": 1},
    {"note": "", "ward": 2},
    {"note": "Grüße", "ward": "1", "owner": "x"},
]


def classifier_task(**changes: object) -> SequenceClassifier:
    return make_sequence_classifier(SequenceClassifierParams.model_validate(PARAMS | changes))


@pytest.fixture(params=[DECODER, ENCODER], ids=["decoder", "encoder"])
def sequences(request: pytest.FixtureRequest) -> SequenceClassifier:
    return classifier_task(config=request.param)


@pytest.fixture(
    params=[(DECODER, "c_attn", ["score"]), (ENCODER, "query", ["classifier"])],
    ids=["decoder", "encoder"],
)
def adapted(request: pytest.FixtureRequest) -> tuple[SequenceClassifier, list[str]]:
    config, module, head = request.param
    lora = {"r": 2, "alpha": 4, "target_modules": [module]}
    return classifier_task(config=config, lora=lora), head


def test_text_becomes_bytes_beside_its_label(sequences: SequenceClassifier) -> None:
    examples = sequences.encode(NOTES)
    assert examples["tokens"].shape == (4, 24)
    assert examples["length"].tolist() == [14, 24, 2, 9]
    assert examples["tokens"][3].tolist() == [256, *"Grüße".encode(), 257, *[258] * 15]
    assert examples["y"].tolist() == [0, 1, 2, 1]
    assert sequences.targets(examples).tolist() == [[0], [1], [2], [1]]


def test_no_rows_give_no_examples(sequences: SequenceClassifier) -> None:
    examples = sequences.encode([])
    assert [examples[name].shape for name in ("tokens", "length", "y")] == [(0, 24), (0,), (0,)]
    assert {tensor.dtype for tensor in examples.values()} == {torch.int64}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("note", None),
        ("note", 4711),
        ("ward", 4711),
        ("ward", -1),
        ("ward", 0.5),
        ("ward", None),
        ("ward", "ana@example.org"),
    ],
)
def test_a_bad_value_names_its_column_and_never_itself(column: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"column '{column}'") as caught:
        classifier_task().encode([NOTES[0] | {column: value}])
    trace = "".join(traceback.format_exception(caught.value))
    assert "4711" not in trace
    assert "ana@" not in trace


def alone(examples: Examples, i: int) -> Examples:
    return {name: tensor[i : i + 1] for name, tensor in examples.items()}


def test_losses_and_accuracies_equal_the_model_alone(sequences: SequenceClassifier) -> None:
    examples, model = sequences.encode(NOTES), sequences.build(3).eval()
    assert sequences.log_distribution(model, examples).shape == (4, 1, 3)
    losses, accuracies = [], []
    for i, length in enumerate(examples["length"].tolist()):
        logits = model(input_ids=examples["tokens"][i : i + 1, :length]).logits
        losses.append(nn.functional.cross_entropy(logits, examples["y"][i : i + 1]))
        accuracies.append(float(logits.argmax() == examples["y"][i]))
    torch.testing.assert_close(sequences.losses(model, examples), torch.stack(losses))
    assert sequences.accuracies(model, examples).tolist() == accuracies


def test_padding_has_no_influence(sequences: SequenceClassifier) -> None:
    examples, model = sequences.encode(NOTES), sequences.build(3).eval()
    together = sequences.log_distribution(model, examples)
    for i in range(len(NOTES)):
        one = sequences.log_distribution(model, alone(examples, i))
        torch.testing.assert_close(one[0], together[i])
    # The texts do differ: else the above would hold of a model that reads nothing.
    assert len({tuple(row) for row in together[:, 0].tolist()}) == len(NOTES)


def test_every_token_counts(sequences: SequenceClassifier) -> None:
    examples, model = sequences.encode(NOTES[:1]), sequences.build(3).eval()
    before = sequences.log_distribution(model, examples)
    for place in range(int(examples["length"][0])):
        changed = examples["tokens"].clone()
        changed[0, place] = 65 + (changed[0, place] == 65).long()
        after = sequences.log_distribution(model, examples | {"tokens": changed})
        assert not torch.equal(after, before)


def test_a_build_depends_on_its_seed_alone(sequences: SequenceClassifier) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    first = sequences.build(1).state_dict()
    torch.manual_seed(1)
    again, other = sequences.build(1).state_dict(), sequences.build(2).state_dict()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def notes(numbers: Sequence[int]) -> Rows:
    return [{"note": "ab"[i % 2] * (3 + i % 5), "ward": i % 2} for i in numbers]


def test_training_tells_texts_apart(sequences: SequenceClassifier, train: Training) -> None:
    examples = sequences.encode(notes(range(12)))
    trained = restore(sequences, train(sequences, [examples]), seed="model-1", shard=2)
    fresh = restore(sequences, train(sequences, [sequences.encode([])]), seed="model-1", shard=2)
    loss = sequences.losses(trained, examples).mean()
    assert loss < sequences.losses(fresh, examples).mean()


def test_erasing_from_a_checkpoint_equals_training_without(
    sequences: SequenceClassifier, train: Training
) -> None:
    assert any(isinstance(m, nn.Dropout) and m.p > 0 for m in sequences.build(0).modules())
    slices = [sequences.encode(notes(part)) for part in (range(4), range(4, 7), range(7, 9))]
    whole = train(sequences, slices)
    before = dict(train.checkpoints)
    assert same(train(sequences, slices, resume=(0, before[0])), whole)
    assert same(train(sequences, slices, resume=(1, before[1])), whole)
    kept = [slices[0], sequences.encode(notes([4, 6])), slices[2]]
    continued = train(sequences, kept, resume=(0, before[0]))
    fresh = Training()
    assert same(continued, fresh(sequences, kept))
    assert same(fresh.checkpoints[0], before[0])
    assert not same(continued, whole)


def test_lora_trains_adapters_and_the_head(
    adapted: tuple[SequenceClassifier, list[str]], train: Training
) -> None:
    task, head = adapted
    slices = [task.encode(NOTES[:2]), task.encode(NOTES[2:])]
    state = train(task, slices)
    assert all(".lora_" in name or name.split(".")[0] in head for name in state.model)
    assert any(name.split(".")[0] in head for name in state.model)
    fresh = train(task, [task.encode([])])
    assert not any(torch.equal(state.model[name], fresh.model[name]) for name in fresh.model)
    model = restore(task, state, seed="model-1", shard=2)
    untrained = dict(restore(task, fresh, seed="model-1", shard=2).named_parameters())
    differing = {n for n, p in model.named_parameters() if not torch.equal(p, untrained[n])}
    assert differing == set(state.model)
    again = Training()
    assert same(again(task, slices), state)
    assert same(train(task, slices, resume=(0, again.checkpoints[0])), state)


@pytest.mark.parametrize("lora", [None, {"target_modules": ["c_attn"]}])
def test_what_is_offered(lora: dict[str, object] | None) -> None:
    offered = SPEC.offers(classifier_task(lora=lora).params)
    assert offered == {"gradients", "checkpoints"} | ({"adapters"} if lora else set())


def small(**changes: object) -> PreTrainedConfig:
    values: dict[str, object] = DECODER | {
        "n_layer": 1,
        "vocab_size": 259,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    values |= changes
    return AutoConfig.for_model(str(values.pop("model_type")), **values)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    model = AutoModelForCausalLM.from_config(small())  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return folder


def from_checkpoint(folder: Path, **changes: object) -> Task:
    named = {"path": str(folder), "sha256": folder_digest(folder)}
    return classifier_task(config=None, checkpoint=named, **changes)


def test_a_model_starts_from_a_language_model_with_a_new_head(checkpoint: Path) -> None:
    task = from_checkpoint(checkpoint)
    saved = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    built, again, other = (task.build(seed).state_dict() for seed in (1, 1, 2))
    assert built.keys() - saved.state_dict().keys() == {"score.weight"}
    for name in built.keys() & saved.state_dict().keys():
        assert torch.equal(built[name], saved.state_dict()[name])
    assert torch.equal(built["score.weight"], again["score.weight"])
    assert not torch.equal(built["score.weight"], other["score.weight"])


def test_a_checkpoint_that_names_no_padding_is_read_without_it(checkpoint: Path) -> None:
    assert AutoConfig.from_pretrained(checkpoint).pad_token_id is None
    test_padding_has_no_influence(from_checkpoint(checkpoint))  # type: ignore[arg-type]


def test_a_checkpoint_keeps_its_head_where_the_classes_are_as_many(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_config(small(num_labels=3))  # type: ignore[no-untyped-call]
    model.save_pretrained(tmp_path)
    built = from_checkpoint(tmp_path).build(0)
    assert torch.equal(built.get_parameter("score.weight"), model.score.weight)
    with pytest.raises(ValueError, match="a head for another number of classes"):
        from_checkpoint(tmp_path, classes=4).build(0)


def test_a_changed_or_missing_checkpoint_is_refused(checkpoint: Path) -> None:
    task = from_checkpoint(checkpoint)
    (checkpoint / "extra.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold the files that the recipe names"):
        task.build(0)
    shutil.rmtree(checkpoint)
    with pytest.raises(FileNotFoundError, match="missing on this machine"):
        task.build(0)


def test_a_local_tokenizer_pads_without_influence(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "a": 2, "note": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="?"
    ).save_pretrained(tmp_path)
    folder = {"path": str(tmp_path), "sha256": folder_digest(tmp_path)}
    task = classifier_task(tokenizer=folder, max_tokens=6)
    examples = task.encode([{"note": "a short note", "ward": 1}, {"note": "a", "ward": 0}])
    # The end of a text also pads it.
    assert examples["tokens"].tolist() == [[0, 2, 4, 3, 1, 1], [0, 2, 1, 1, 1, 1]]
    model = task.build(0).eval()
    together = task.log_distribution(model, examples)
    torch.testing.assert_close(task.log_distribution(model, alone(examples, 1))[0], together[1])
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold the files"):
        classifier_task(tokenizer=folder)


def test_classes_are_those_of_the_recipe_whatever_the_configuration_says() -> None:
    task = classifier_task(config=DECODER | {"num_labels": 7, "pad_token_id": 0})
    model = task.build(0).eval()
    examples = task.encode(NOTES)
    assert task.log_distribution(model, examples).shape == (4, 1, 3)
    one = task.log_distribution(model, alone(examples, 0))
    torch.testing.assert_close(one[0], task.log_distribution(model, examples)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 33}, "more than the model's 32 positions"),
        ({"config": DECODER | {"vocab_size": 100}}, "vocabulary of at least 259"),
    ],
)
def test_a_model_too_small_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier_task(**changes).build(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": {"n_layer": 1}},
        {"checkpoint": {"path": "/models/base", "sha256": "0" * 64}},
        {"classes": 1},
        {"label": None},
        {"max_tokens": 1},
        {"lora": {"target_modules": []}},
        {"colour": "red"},
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        classifier_task(**changes)
