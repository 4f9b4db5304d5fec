"""Continuations against the model's own generation in `transformers` and against a plain loop."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lethe.recipes.local_folder import folder_digest
from tests.unlearn.unlearn_cases import Rows, Training, digits_task, lm_params
from workers.attacks.generation import Continuations, Said, continuations, copied
from workers.evidence.shift import NotApplicable
from workers.recipes import make_task
from workers.recipes.tokens import byte_tokenizer
from workers.unlearn.aggregate import Ensemble
from workers.unlearn.sisa import restore
from workers.unlearn.task import Examples, Task, take

NOTES: Rows = [
    {"note": "a note that is longer than the model can take in"},
    {"note": "short"},
    {"note": ""},
    {"note": "Grüße"},
    {"note": "a short note"},
    {"note": "a quick note"},
    {"note": "yet one more"},
]


def lm(**changes: object) -> Task:
    return make_task("causal_lm", lm_params() | changes)


def sharp(task: Task, seed: int) -> nn.Module:
    model = task.build(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model.train()


def halves(examples: Examples) -> list[tuple[list[int], list[int]]]:
    """The beginning and the rest of each record's tokens, half and half."""
    found = []
    for tokens, length in zip(
        examples["tokens"].tolist(), examples["length"].tolist(), strict=True
    ):
        begun = max(1, length // 2)
        found.append((tokens[:begun], tokens[begun:length]))
    return found


def ended(tokens: list[int]) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(257) + 1] if 257 in tokens else tokens)


def greedily(model: Ensemble, begun: list[int], new: int) -> tuple[int, ...]:
    """Token by token, all of the row anew each time, by the task's own log distribution."""
    tokens = list(begun)
    for member in model.members:
        member.eval()
    for _ in range(new):
        row = {"tokens": torch.tensor([[*tokens, 0]]), "length": torch.tensor([len(tokens) + 1])}
        with torch.no_grad():
            tokens.append(int(model.log_distribution(row)[0, -1].argmax()))
    return ended(tokens[len(begun) :])


@pytest.mark.parametrize("members", [1, 3])
def test_the_greedy_continuation_equals_a_plain_loop(members: int) -> None:
    task = lm()
    model = Ensemble(task, tuple(sharp(task, seed) for seed in range(members)))
    examples = task.encode(NOTES)
    said = continuations(model, examples, seed=0)
    for (begun, rest), true, tries in zip(halves(examples), said.true, said.tries, strict=True):
        assert true.tokens == tuple(rest)
        assert [one.tokens for one in tries] == [greedily(model, begun, len(rest))]
    assert len({one.tokens for (one,) in said.tries}) > 3


def test_the_greedy_continuation_is_that_of_transformers() -> None:
    task = lm()
    member = sharp(task, 5).eval()
    assert isinstance(member, PreTrainedModel)
    examples = task.encode(NOTES)
    said = continuations(Ensemble(task, (member,)), examples, seed=0)
    for (begun, rest), (one,) in zip(halves(examples), said.tries, strict=True):
        theirs = member.generate(  # type: ignore[operator]
            torch.tensor([begun]),
            attention_mask=torch.ones(1, len(begun), dtype=torch.int64),
            max_new_tokens=len(rest),
            do_sample=False,
        )
        assert one.tokens == ended(theirs[0, len(begun) :].tolist())


def test_nothing_is_said_after_the_end_of_the_text() -> None:
    task = lm()
    member = task.build(0)
    with torch.no_grad():
        member.get_parameter("transformer.ln_f.weight").zero_()
        end = member.get_parameter("transformer.wte.weight")[257].mul_(50)
        member.get_parameter("transformer.ln_f.bias").copy_(end)
    said = continuations(Ensemble(task, (member,)), task.encode(NOTES), seed=0)
    assert [one.tokens for (one,) in said.tries] == [(257,)] * len(NOTES)


def test_what_was_read_is_not_read_again() -> None:
    task, widths = lm(), list[int]()
    member = sharp(task, 0)
    member.register_forward_pre_hook(
        lambda _module, _args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    continuations(Ensemble(task, (member,)), task.encode(NOTES[4:5]), seed=0)
    assert widths == [7, *[1] * 6]


def test_share_and_length_of_what_is_continued() -> None:
    task = lm()
    model = Ensemble(task, (sharp(task, 0),))
    examples = task.encode(NOTES)
    said = continuations(model, examples, prompt_share=0.25, most_new=3, seed=0)
    rows = zip(examples["tokens"].tolist(), examples["length"].tolist(), strict=True)
    for (tokens, length), true, (one,) in zip(rows, said.true, said.tries, strict=True):
        begun = max(1, length // 4)
        assert true.tokens == tuple(tokens[begun:length][:3])
        assert len(one.tokens) <= len(true.tokens)


def test_samples_follow_the_model_and_the_seed_and_not_the_others() -> None:
    task = lm()
    model = Ensemble(task, (sharp(task, 1),))
    examples = task.encode(NOTES)
    said = continuations(model, examples, sampled=2, seed=3)
    assert said == continuations(model, examples, sampled=2, seed=3)
    assert said != continuations(model, examples, sampled=2, seed=4)
    greedy = continuations(model, examples, seed=3)
    assert [tries[0] for tries in said.tries] == [tries[0] for tries in greedy.tries]
    few = take(examples, torch.arange(3), torch.device("cpu"))
    assert continuations(model, few, sampled=2, seed=3).tries == said.tries[:3]
    assert any(a != b for _, a, b in said.tries)


def test_a_low_temperature_samples_what_is_greedy() -> None:
    task = lm()
    model = Ensemble(task, (sharp(task, 1),))
    said = continuations(model, task.encode(NOTES), sampled=2, temperature=1e-6, seed=3)
    assert all(greedy == a == b for greedy, a, b in said.tries)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_are_drawn_by_the_distribution(temperature: float) -> None:
    task = lm()
    member = sharp(task, 2).eval()
    model = Ensemble(task, (member,))
    examples = task.encode([{"note": ""}])  # one token is given, one is to be said
    with torch.no_grad():
        p = (model.log_distribution(examples)[0, 0] / temperature).softmax(-1)
    draws = 4000
    said = continuations(model, examples, sampled=draws, temperature=temperature, seed=0)
    found = Counter(one.tokens[0] for one in said.tries[0][1:])
    for token in p.topk(5).indices.tolist():
        expected = float(p[token])
        spread = (expected * (1 - expected) / draws) ** 0.5
        assert abs(found[token] / draws - expected) < 5 * spread


def test_a_model_that_learnt_a_record_by_heart_says_it() -> None:
    training = {"epochs": 150, "batch_size": 3, "learning_rate": 0.01}
    task = lm(training=training)
    known: Rows = [{"note": "my cat is grey"}, {"note": "we met in june"}]
    unknown: Rows = [{"note": "her dog was red"}, {"note": "they ate at six"}]
    state = Training()(task, [task.encode(known)])
    model = Ensemble(task, (restore(task, state, seed="model-1", shard=2),))
    said = continuations(model, task.encode(known), sampled=1, temperature=0.01, seed=0)
    assert copied(said, 2).tolist() == [1.0, 1.0]
    other = continuations(model, task.encode(unknown), seed=0)
    assert copied(other, 1).max() < 1.0


def said_of(true: str, *tries: str) -> tuple[Said, tuple[Said, ...]]:
    pieces = [Said(tuple(text.encode()), text) for text in (true, *tries)]
    return pieces[0], tuple(pieces[1:])


def test_scores_take_the_best_of_the_first_tries() -> None:
    pairs = [
        said_of("the cat sat down", "a dog", "The cat ran", "the cat sat down"),
        said_of("one two", "one two", "two one", "x"),
        said_of("...", "...", "", "?"),  # no words
    ]
    said = Continuations(tuple(true for true, _ in pairs), tuple(tries for _, tries in pairs))
    np.testing.assert_allclose(copied(said, 1), [0, 1, 0])
    np.testing.assert_allclose(copied(said, 2), [2 * 2 / (4 + 3), 1, 0])
    np.testing.assert_allclose(copied(said, 3), [1, 1, 0])


@pytest.mark.parametrize("tries", [0, 3])
def test_tries_that_were_not_made_are_refused(tries: int) -> None:
    true, made = said_of("a", "b", "c")
    with pytest.raises(ValueError, match="as many tries"):
        copied(Continuations((true,), (made,)), tries)
    with pytest.raises(ValueError, match="at least one record"):
        copied(Continuations((), ()), 1)


def test_what_was_said_shows_in_no_text_of_the_program() -> None:
    true, tries = said_of("Ana Example", "Ana Example")
    shown = repr(Continuations((true,), (tries,)))
    assert "Ana" not in shown
    assert "65" not in shown


def classifier_of_text() -> Task:
    params = lm_params() | {"label": "kind", "classes": 2}
    return make_task("sequence_classifier", params)


@pytest.mark.parametrize("task", [digits_task(), classifier_of_text()], ids=["digits", "texts"])
def test_a_model_that_says_no_text_is_not_asked(task: Task) -> None:
    with pytest.raises(NotApplicable, match="says no text"):
        continuations(Ensemble(task, (task.build(0),)), task.encode([]), seed=0)


def test_arguments_out_of_range_are_refused() -> None:
    task = lm()
    model, examples = Ensemble(task, (task.build(0),)), task.encode(NOTES)
    with pytest.raises(ValueError, match="at least one record"):
        continuations(model, task.encode([]), seed=0)
    with pytest.raises(ValueError, match="at least two tokens"):
        continuations(model, examples | {"length": torch.ones(7, dtype=torch.int64)}, seed=0)
    with pytest.raises(ValueError, match="share in"):
        continuations(model, examples, prompt_share=1.0, seed=0)
    with pytest.raises(ValueError, match="new tokens"):
        continuations(model, examples, most_new=0, seed=0)
    with pytest.raises(ValueError, match="samples"):
        continuations(model, examples, sampled=-1, seed=0)
    with pytest.raises(ValueError, match="temperature"):
        continuations(model, examples, temperature=0.0, seed=0)


def test_bytes_are_decoded_without_special_tokens_or_harm() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Grüße", 99)) == "Grüße"
    assert tokenizer.decode([256, *"Gr\u00fc".encode()[:3], 258]) == "Gr\ufffd"


def test_a_local_tokenizer_decodes_without_special_tokens(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "a": 2, "note": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="?"
    ).save_pretrained(tmp_path)
    folder = lm_params() | {"tokenizer": {"path": str(tmp_path), "sha256": folder_digest(tmp_path)}}
    tokenizer = make_task("causal_lm", folder).tokenizer  # type: ignore[attr-defined]
    assert tokenizer.decode(tokenizer.encode("a note", 9)) == "a note"
