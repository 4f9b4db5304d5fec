from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from tests.unlearn.unlearn_cases import digits_task, lm_params
from workers.attacks.prompts import JAILBREAKS, in_context, prefixed, rephrased
from workers.evidence.shift import NotApplicable
from workers.recipes import make_task
from workers.unlearn.aggregate import Ensemble, ensemble

ROWS: Sequence[Mapping[str, object]] = [
    {"note": "ab", "other": "xy"},
    {"note": "", "other": "z"},
    {"note": "grün", "other": "q"},
    {"note": "a long note of many words", "other": "r"},
]
OWNERS = [1, 1, 2, 1]


def lm(members: int = 1) -> Ensemble:
    task = make_task("causal_lm", lm_params())
    return ensemble(task, [(1 + i, task.build(i)) for i in range(members)])


def plain(model: Ensemble, context: str, note: str) -> float:
    """Minus the mean loss of the note's own tokens, token by token."""
    own = [*note.encode(), 257][:23]
    room = 23 - len(own)
    tokens = [256, *context.encode()[max(0, len(context.encode()) - room) :]]
    member, found = model.members[0].eval(), []
    for token in own:
        logits = member(input_ids=torch.tensor([tokens])).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[token].detach()))
        tokens.append(token)
    return float(np.mean(found))


def test_only_the_records_own_tokens_count_after_a_prefix() -> None:
    model = lm()
    for prefix in ("pre", "a prefix that is far longer than there is room"):
        expected = [plain(model, prefix, str(row["note"])) for row in ROWS]
        np.testing.assert_allclose(prefixed(model, ROWS, prefix), expected, atol=2e-6)


def test_a_record_is_scored_after_its_data_subjects_other_records() -> None:
    model = lm()
    long = str(ROWS[3]["note"])
    contexts = [f"\n{long}\n", f"ab\n{long}\n", "", "ab\n\n"]
    expected = [plain(model, c, str(row["note"])) for c, row in zip(contexts, ROWS, strict=True)]
    np.testing.assert_allclose(in_context(model, ROWS, OWNERS), expected, atol=2e-6)


def test_other_words_are_scored_in_the_place_of_the_text() -> None:
    model = lm()
    expected = [plain(model, "", str(row["other"])) for row in ROWS]
    np.testing.assert_allclose(rephrased(model, ROWS, "other"), expected, atol=2e-6)
    with pytest.raises(ValueError, match="column 'missing' must hold a text"):
        rephrased(model, ROWS, "missing")


def test_members_that_predict_together_are_asked_together() -> None:
    model = lm(2)
    swapped = Ensemble(model.task, model.members[::-1], model.records[::-1])
    found = prefixed(model, ROWS, "pre")
    np.testing.assert_allclose(found, prefixed(swapped, ROWS, "pre"), atol=1e-6)
    assert not np.allclose(found, prefixed(Ensemble(model.task, model.members[:1]), ROWS, "pre"))


def test_a_classifiers_one_prediction_counts_wherever_the_text_begins() -> None:
    params = {**lm_params(), "label": "y", "classes": 2}
    task = make_task("sequence_classifier", params)
    model = ensemble(task, [(1, task.build(1))])
    rows = [{"note": "ab", "y": 1}, {"note": "c", "y": 0}]
    together = [{**row, "note": f"pre{row['note']}"} for row in rows]
    expected = -model.losses(task.encode(together)).numpy()
    np.testing.assert_allclose(prefixed(model, rows, "pre"), expected, atol=1e-6)


def test_what_cannot_be_asked_is_not_applicable() -> None:
    model, full = lm(), [{"note": "x" * 40}] * 2
    with pytest.raises(NotApplicable, match="second record"):
        in_context(model, ROWS, [1, 2, 3, 4])
    with pytest.raises(NotApplicable, match="nothing fits"):
        in_context(model, full, [1, 1])
    with pytest.raises(NotApplicable, match="nothing fits"):
        prefixed(model, full, "pre")
    task = digits_task()
    with pytest.raises(NotApplicable, match="no text"):
        prefixed(ensemble(task, [(1, task.build(1))]), ROWS, "pre")


def test_empty_sets_and_wrong_lengths_are_refused() -> None:
    model = lm()
    with pytest.raises(ValueError, match="data subject that it belongs to"):
        in_context(model, ROWS, [1, 1])
    with pytest.raises(ValueError, match="no record"):
        prefixed(model, [], "pre")
    with pytest.raises(ValueError, match="no record"):
        rephrased(model, [], "other")
    with pytest.raises(ValueError, match="empty prefix"):
        prefixed(model, ROWS, "")


def test_three_jailbreaks_are_shipped_in_words_of_their_own() -> None:
    assert len(set(JAILBREAKS.values())) == 3
    assert all(prompt.endswith("\n") for prompt in JAILBREAKS.values())
