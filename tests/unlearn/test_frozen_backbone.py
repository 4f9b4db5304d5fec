"""A head on a frozen text backbone against plain versions, batches, and training without."""

import hashlib
import random
import shutil
import traceback
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from lethe.recipes import recipe_digest
from lethe.recipes.closed_form import ClosedFormParams
from lethe.recipes.convex import ConvexParams
from lethe.recipes.local_folder import folder_digest
from tests.unlearn.unlearn_cases import Rows, Training, same
from workers.attacks.parts import columns_given
from workers.recipes import make_task
from workers.recipes.closed_form import INPUT_RANGE, ClosedForm, ClosedFormHead, make_closed_form
from workers.recipes.convex import Convex, ConvexModel, make_convex
from workers.unlearn.closed_form_head import UNIT
from workers.unlearn.state import TrainingState, read_model
from workers.unlearn.task import Examples, take
from workers.weights import dump_tensors

WIDTH, TOKENS = 64, 96
DECODER: dict[str, object] = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": WIDTH,
    "n_positions": TOKENS,
}
ENCODER: dict[str, object] = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "max_position_embeddings": TOKENS,
}
CONFIGS = pytest.mark.parametrize("config", [DECODER, ENCODER], ids=["decoder", "encoder"])
FOURIER = {"width": 96, "length_scale": 8.0, "seed": 7}
WORDS = ["fever", "cough", "rash", "sleep", "north", "south", "seven", "Grüße"]
CPU = torch.device("cpu")
Folder = dict[str, str]
Floats = npt.NDArray[np.float64]


def notes(many: int, seed: int = 0) -> Rows:
    """Notes of one to sixteen words, their ward told by the first."""
    draws = random.Random(seed)
    rows: Rows = []
    for _ in range(many):
        words = draws.choices(WORDS, k=draws.randint(1, 16))
        rows.append({"note": " ".join(words), "ward": WORDS.index(words[0]) % 3, "owner": "x"})
    return rows


def params(config: object = None, /, **changes: object) -> dict[str, object]:
    text: dict[str, object] = {"column": "note", "width": WIDTH, "max_tokens": TOKENS, "seed": 3}
    given = {} if config is None else {"config": config}
    own = {name: changes.pop(name) for name in tuple(changes) if name in (*text, *SOURCES)}
    return {"text": text | given | own, "label": "ward", "classes": 3, **changes}


SOURCES = ("config", "checkpoint", "tokenizer", "colour")


def task_of(config: object = None, /, **changes: object) -> ClosedForm:
    return make_closed_form(ClosedFormParams.model_validate(params(config, **changes)))


def convex_of(config: object = None, /, **changes: object) -> Convex:
    return make_convex(ConvexParams.model_validate(params(config, **changes)))


def fitted(task: ClosedForm, *slices: Examples) -> ClosedFormHead:
    model = task.build(0)
    for r in range(len(slices)):
        task.learn(model, slices, r, "seed")
    assert isinstance(model, ClosedFormHead)
    return model


def sha(model: nn.Module) -> str:
    state = TrainingState(read_model(model), {})
    return hashlib.sha256(dump_tensors(state.tensors())).hexdigest()


def named(folder: Path) -> Folder:
    return {"path": str(folder), "sha256": folder_digest(folder)}


def saved_words(folder: Path, **special: str) -> Folder:
    """A tokenizer of whole words, saved by `transformers`."""
    kept = ["<s>", "</s>", "?", *WORDS]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(kept)}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, unk_token="?", **special
    ).save_pretrained(folder)
    return named(folder)


def saved_model(
    folder: Path, config: dict[str, object], kind: type = AutoModelForCausalLM, **changes: object
) -> Path:
    """A model with random weights, saved by `transformers` as safetensors."""
    values: dict[str, object] = {"vocab_size": 259, "bos_token_id": 256, "eos_token_id": 257}
    values |= config | changes
    with torch.random.fork_rng([]):
        torch.manual_seed(11)
        made = AutoConfig.for_model(str(values.pop("model_type")), **values)
        kind.from_config(made).save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved_model(tmp_path / "base", DECODER)


@CONFIGS
def test_a_record_has_the_same_bits_alone_in_a_batch_and_in_any_order(
    config: dict[str, object],
) -> None:
    task, rows = task_of(config), notes(80)
    together = task.encode(rows)["x"]
    assert together.shape == (80, WIDTH)
    assert together.dtype == torch.float32
    assert task.backbone is not None
    # Before they are rounded, which would hide most of a difference.
    means = task.backbone.mean_states(rows)
    for i, row in enumerate(rows):
        assert torch.equal(task.backbone.mean_states([row])[0], means[i])
        assert torch.equal(task.encode([row])["x"][0], together[i])
    order = list(range(80))
    random.Random(1).shuffle(order)
    assert torch.equal(task.encode([rows[i] for i in order])["x"], together[order])
    parts = [task.encode(rows[start : start + 7])["x"] for start in range(0, 80, 7)]
    assert torch.equal(torch.cat(parts), together)
    # Made anew, as another process would.
    assert torch.equal(task_of(config).encode(rows)["x"], together)
    # The texts do differ: else the above would hold of a backbone that reads nothing.
    assert len({tuple(x) for x in together.tolist()}) == len({str(row["note"]) for row in rows})


@CONFIGS
@pytest.mark.parametrize("fourier", [None, FOURIER], ids=["linear", "fourier"])
@pytest.mark.parametrize("removed", [1, 17])
def test_removal_gives_the_bytes_of_a_training_without_the_records(
    config: dict[str, object], fourier: object, removed: int
) -> None:
    task, rows, order = task_of(config, fourier=fourier), notes(60), list(range(60))
    random.Random(removed).shuffle(order)
    model = fitted(task, task.encode(rows))
    before = sha(model)
    for i in order[:removed]:
        assert task.remove(model, task.encode([rows[i]]), task.encode([])).within
    never = task_of(config, fourier=fourier)
    refit = fitted(never, never.encode([rows[i] for i in order[removed:]]))
    assert sha(model) == sha(refit) != before
    assert model.records == 60 - removed


@CONFIGS
def test_slices_and_their_order_do_not_matter(config: dict[str, object], train: Training) -> None:
    task, rows = task_of(config), notes(40)
    slices = [task.encode(part) for part in (rows[:9], [], rows[9:30], rows[30:])]
    assert sha(fitted(task, *slices)) == sha(fitted(task, *slices[::-1]))
    whole = train(task, slices)
    assert same(train(task, slices, resume=(1, train.checkpoints[1])), whole)


@pytest.mark.parametrize(
    ("config", "kind"),
    [(DECODER, AutoModelForCausalLM), (ENCODER, AutoModelForMaskedLM)],
    ids=["decoder", "encoder"],
)
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_a_saved_checkpoint_equals_a_plain_version(
    tmp_path: Path, config: dict[str, object], kind: type, ridge: float
) -> None:
    words = saved_words(tmp_path / "words", bos_token="<s>", eos_token="</s>")
    # 11 words; the encoder is saved without the pooler that AutoModel gives it.
    folder = saved_model(tmp_path / "base", config, kind, bos_token_id=0, eos_token_id=1)
    task = task_of(checkpoint=named(folder), tokenizer=words, ridge=ridge)
    rows = notes(150)
    examples = task.encode(rows)
    x = examples["x"].double().numpy()

    plain = plain_inputs(folder, tmp_path / "words", [str(row["note"]) for row in rows])
    assert np.abs(x - plain).max() <= 0.5 / UNIT + 1e-6
    assert np.array_equal(x * UNIT, np.round(x * UNIT))

    model = fitted(task, examples)
    phi, y = np.hstack([x, np.ones((150, 1))]), np.eye(3)[examples["y"]]
    if ridge:
        expected = np.linalg.solve(phi.T @ phi + ridge * np.eye(WIDTH + 1), phi.T @ y)
        np.testing.assert_allclose(model.weights.detach(), expected, atol=1e-6)
    else:
        expected = np.linalg.lstsq(phi, y, rcond=1e-7)[0]
    # Without a ridge less is left of the digits: inputs add up to 0 but for their rounding.
    close = 1e-6 if ridge else 1e-5
    np.testing.assert_allclose(model(examples["x"]).detach(), phi @ expected, atol=close)
    assert float(task.accuracies(model, examples).mean()) > 0.6

    refit = fitted(task, task.encode(rows[10:]))
    task.remove(model, task.encode(rows[:10]), task.encode([]))
    assert sha(model) == sha(refit)


def plain_inputs(folder: Path, words: Path, texts: list[str]) -> Floats:
    """Mean of the last hidden states and layer norm, by hand, in float64 and not rounded."""
    tokenizer = AutoTokenizer.from_pretrained(words, local_files_only=True)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for one in texts:
        ids = [tokenizer.convert_tokens_to_ids(word) for word in ("<s>", *one.split(), "</s>")]
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True)
        states = output.hidden_states[-1][0].double().numpy()
        mean = np.array([sum(state) / len(ids) for state in states.T.tolist()])
        centred = mean - mean.sum() / WIDTH
        found.append(centred / np.sqrt((centred**2).sum() / WIDTH + 1e-5))
    return np.array(found)


def test_the_last_token_counts_and_what_is_cut_does_not() -> None:
    # Of a causal model the last token reaches no other token's state.
    task = task_of(DECODER, max_tokens=8)
    long, cut, other = ("abcdefg", "abcdefg and more", "abcdefx")
    x = task.encode([{"note": one, "ward": 0} for one in (long, cut, other)])["x"]
    assert torch.equal(x[0], x[1])
    assert not torch.equal(x[0], x[2])


def test_an_empty_text_and_no_text_at_all() -> None:
    task = task_of(DECODER)
    assert task.encode([{"note": "", "ward": 1}])["x"].isfinite().all()
    nothing = task.encode([])
    assert (nothing["x"].shape, nothing["y"].shape) == ((0, WIDTH), (0,))
    assert (nothing["x"].dtype, nothing["y"].dtype) == (torch.float32, torch.int64)


def test_inputs_are_in_range_however_wide_the_backbone_is(base: Path) -> None:
    assert WIDTH < INPUT_RANGE**2
    wide = {"n_embd": 2**13, "n_layer": 0, "n_head": 1}
    task = task_of(DECODER | wide, width=2**13)
    assert task.backbone is not None
    with torch.no_grad():
        task.backbone.model.get_parameter("ln_f.weight").zero_()[5] = 1.0
        task.backbone.model.get_parameter("ln_f.bias")[5] = 100.0
    x = task.encode(notes(1))["x"]
    assert float(x.max()) == INPUT_RANGE < (2**13 - 1) ** 0.5


def test_a_backbone_follows_from_its_public_seed_alone() -> None:
    rows = notes(3)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = task_of(DECODER).encode(rows)["x"]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(task_of(DECODER).encode(rows)["x"], first)
    assert not torch.equal(task_of(DECODER, seed=4).encode(rows)["x"], first)


def test_the_backbone_is_in_no_state_and_is_never_trained(train: Training) -> None:
    task, rows = task_of(DECODER), notes(30)
    assert task.backbone is not None
    assert not any(weight.requires_grad for weight in task.backbone.model.parameters())
    before = {name: one.clone() for name, one in task.backbone.model.state_dict().items()}
    state = train(task, [task.encode(rows)])
    width = task.params.width
    assert {name: tuple(one.shape) for name, one in state.tensors().items()} == {
        "model/weights": (width, 3),
        "model/gram": (width, width),
        "model/moments": (width, 3),
    }
    model = fitted(task, task.encode(rows))
    task.remove(model, task.encode(rows[:4]), task.encode(rows[4:]))
    after = task.backbone.model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert convex_of(DECODER).build(0).state_dict().keys() == {"weights", "residuals", "records"}


def test_newton_removal_on_the_same_backbone() -> None:
    settings = {"l2": 1e-2, "noise": 5.0}
    task, rows = convex_of(DECODER, **settings), notes(150)
    examples = task.encode(rows)
    assert torch.equal(examples["x"], task_of(DECODER).encode(rows)["x"])
    forget = take(examples, torch.arange(5), CPU)
    retain = take(examples, torch.arange(5, 150), CPU)
    model, retrained = task.build(0), task.build(0)
    task.learn(model, [examples], 0, "seed")
    task.learn(retrained, [retain], 0, "seed")
    assert isinstance(model, ConvexModel)
    assert isinstance(retrained, ConvexModel)
    before = float((model.weights - retrained.weights).detach().norm())
    removed = task.remove(model, forget, retain)
    assert removed.within
    assert 0 < removed.spent <= removed.budget
    assert float((model.weights - retrained.weights).detach().norm()) < before / 20
    assert int(model.records) == 145


def test_the_recipe_names_the_backbone_by_content(base: Path) -> None:
    def digest(**changes: object) -> str:
        return recipe_digest("closed_form", params(**changes))

    before = named(base)
    (base / "extra.json").write_text("{}")
    digests = [
        digest(config=DECODER),
        digest(config=DECODER, seed=4),
        digest(config=DECODER | {"n_layer": 1}),
        digest(checkpoint=before),
        digest(checkpoint=named(base)),
    ]
    assert len(set(digests)) == len(digests)


def test_a_tokenizer_with_class_and_separator_is_one_with_beginning_and_end(
    tmp_path: Path,
) -> None:
    words = saved_words(tmp_path, cls_token="<s>", sep_token="</s>")
    task = task_of(ENCODER, tokenizer=words)
    assert task.backbone is not None
    assert task.backbone.tokenizer.encode("fever rash", 9) == [0, 3, 5, 1]


@CONFIGS
def test_a_model_without_a_tokenizer_is_not_taken_for_one(
    tmp_path: Path, config: dict[str, object]
) -> None:
    folder = named(saved_model(tmp_path, config, AutoModel))
    with pytest.raises(ValueError, match="holds no tokenizer"):
        task_of(checkpoint=folder, tokenizer=folder)


def test_the_blind_baseline_sees_what_the_backbone_reads() -> None:
    task = make_task("closed_form", params(DECODER))
    assert columns_given(task, notes(1)) == [
        {name: one for name, one in notes(1)[0].items() if name != "owner"}
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [("note", None), ("note", 4711), ("ward", 4711), ("ward", "ana@example.org")],
)
@pytest.mark.parametrize("make", [task_of, convex_of])
def test_a_bad_value_names_its_column_and_never_itself(
    make: type, column: str, value: object
) -> None:
    good = {"note": "ana@example.org has a fever", "ward": 1}
    with pytest.raises(ValueError, match=f"column '{column}'") as caught:
        make(DECODER).encode([good, good | {column: value}])
    told = "".join(traceback.format_exception(caught.value))
    assert "4711" not in told
    assert "ana@" not in told


def test_a_backbone_that_breaks_on_a_text_names_the_column_only(base: Path) -> None:
    task = task_of(checkpoint=named(base))
    assert task.backbone is not None
    with torch.no_grad():
        task.backbone.model.get_parameter("wte.weight")[ord("z")] = torch.inf
    task.encode([{"note": "fever", "ward": 0}])
    with pytest.raises(ValueError, match="no finite numbers of a text in column 'note'") as caught:
        task.encode([{"note": "fever", "ward": 0}, {"note": "z" * 3, "ward": 0}])
    assert "zzz" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("make", [task_of, convex_of])
def test_a_changed_or_missing_checkpoint_is_refused(base: Path, make: type) -> None:
    checkpoint = named(base)
    assert make(checkpoint=checkpoint).encode(notes(1))["x"].shape == (1, WIDTH)
    (base / "extra.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold the files that the recipe names"):
        make(checkpoint=checkpoint)
    shutil.rmtree(base)
    with pytest.raises(FileNotFoundError, match="missing on this machine"):
        make(checkpoint=checkpoint)


def test_a_checkpoint_with_too_few_weights_is_refused(tmp_path: Path) -> None:
    folder = saved_model(tmp_path, DECODER, n_layer=1)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"n_layer": 1', '"n_layer": 2'))
    with pytest.raises(ValueError, match="lacks weights"):
        task_of(checkpoint=named(folder))


T5 = {"model_type": "t5", "d_model": WIDTH, "num_layers": 1, "num_heads": 1, "d_kv": 8, "d_ff": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 65}, "hidden states have 64 numbers"),
        ({"max_tokens": TOKENS + 1}, f"more than the model's {TOKENS} positions"),
        ({"config": DECODER | {"vocab_size": 100}}, "vocabulary of at least 259"),
        ({"config": T5}, "an encoder or a decoder, not both"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_of(**{"config": DECODER, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "either config or checkpoint"),
        ({"checkpoint": {"path": "/a", "sha256": "0" * 64}}, "either config or checkpoint"),
        ({"config": {"n_layer": 1}}, "needs a model_type"),
        ({"colour": "red"}, "Extra inputs"),
        ({"features": ["x0"]}, "exactly one of features, image and text"),
        ({"text": None}, "exactly one of features, image and text"),
        ({"offset": 1.0}, "offset and scale are for numbers"),
        ({"scale": 2.0}, "offset and scale are for numbers"),
        ({"lora": {"target_modules": ["c_attn"]}}, "Extra inputs"),
    ],
)
@pytest.mark.parametrize("kind", [ClosedFormParams, ConvexParams])
def test_parameters_that_do_not_fit_are_refused(
    kind: type[ClosedFormParams] | type[ConvexParams], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(params(**{"config": DECODER, **changes}))
