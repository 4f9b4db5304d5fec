"""The language-model battery from the records to the verdict, on models trained here.

On TOFU's authors where their file is at hand, and on made-up ones everywhere; then the made-up ones
through the whole service, twenty requests at once.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader

from app.core.config import Settings
from app.core.db import Database
from app.core.security import Role
from app.core.testing import RecordingDoorbell
from app.dashboard.report_words import VERDICTS
from app.verification.checks import ATTACKS as FAMILIES
from app.verification.checks import Margins
from app.verification.rules import Judgement, judge_own
from benchmarks.bench_tofu import novel_tokenizer
from tests.evidence.tofu_world import (
    OTHERS,
    Name,
    World,
    digests,
    examined,
    judged,
    made_up_rows,
    make_world,
    min_40,
    references,
    tofu_rows,
    truth_ratios,
)
from tests.integration.town import Json, Town
from workers.attacks.examination import Examination
from workers.attacks.suite import Plan
from workers.evidence.muse import privleak_evidence
from workers.evidence.process import process_evidence
from workers.evidence.tofu import forget_quality_evidence, forget_truth_score
from workers.evidence.types import Evidence
from workers.recipes import make_task
from workers.unlearn.seeds import deterministic

# Each world is made once for all tests of the module, so all of them in one process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("LETHE_TEST_DATA") or REPOSITORY / "../shared/data")
FILES = ("tofu.jsonl", "frankenstein.txt")
FORGOTTEN = 20
EACH = 3
"""Records of each of TOFU's authors: all twenty would take a CPU half an hour."""

ATTACKS = {
    "loss_membership",
    "zlib",
    "min_k",
    "min_k_plus_plus",
    "target_rank",
    "exact_memorisation",
    "extraction_strength",
    "reference_loss",
    "rmia",
    "greedy_extraction",
    "sampled_extraction",
    "quantised_int8",
    "quantised_int4",
    "relearning",
    "in_context",
    "jailbreak_prompts",
    "paraphrased",
    "probe",
    "tail_test",
    "sparse_test",
}
SHOWN = {
    "forget_loss",
    "blind_baseline",
    "prompted_baseline",
    "residual_fraction",
    "calibration",
}
USE = {"utility_retain", "utility_holdout", "utility_similar"}
NOT_RUN = {"exposure", "translated", "downstream"}
WEAK = {"probe", "tail_test"}
"""Do not find the records even in a model that was never unlearned: too small a model, or too small
a holdout."""


def language(size: int, most: int, rate: float, epochs: int, **more: object) -> Json:
    return {
        "text": "text",
        "max_tokens": most,
        "config": {
            "model_type": "llama",
            "hidden_size": size,
            "intermediate_size": 2 * size,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": most,
        },
        "training": {"epochs": epochs, "batch_size": 16, "learning_rate": rate},
        **more,
    }


MADE_UP = language(64, 96, 3e-3, 30)
MARGINS = Margins(utility_drop=0.1)
"""Nearly half of all that the models learned is forgotten, and with it goes, also where they are
retrained, some of what they know of the others."""


@dataclass(frozen=True)
class Case:
    """A world, and what the battery found in three of its models."""

    world: World
    found: Mapping[Name, Examination]

    def by_statistics(self, name: Name) -> Judgement:
        """The verdict on a run that claims to have forgotten approximately."""
        return judged("approximate", self.found[name].checks, MARGINS)

    def by_process(self, name: Name) -> Judgement:
        """The verdict on a run that claims to have been trained without the records."""
        parts = self.world.parts
        trained = digests(parts.retain)
        if name not in {"retrained", *OTHERS}:
            trained |= digests(parts.forget)
        process = process_evidence(digests(parts.forget), trained, {}, {})
        return judged("exact", [process, *self.found[name].checks], MARGINS)

    def check(self, name: Name, check: str) -> Evidence:
        """One check of a model, by its name."""
        (one,) = (one for one in self.found[name].checks if one.name == check)
        return one

    def saying(self, name: Name, verdict: str) -> set[str]:
        """The checks that say so of a model, by statistics."""
        return {one.name for one in self.by_statistics(name).checks if one.verdict == verdict}


def _case(world: World, rate: float) -> Case:
    plan = Plan(
        full=True,
        relearning_rate=rate,
        paraphrase_column="paraphrased",
        references=references(world),
        references_are_whole=True,
    )
    names: tuple[Name, ...] = ("never unlearned", "retrained", "collapsed")
    return Case(world, {name: examined(world, name, plan) for name in names})


@pytest.fixture(scope="module")
def made_up() -> Case:
    deterministic()
    sets = {"forget": range(20), "retain": range(20, 44), "holdout": range(44, 144)}
    return _case(make_world(make_task("causal_lm", MADE_UP), made_up_rows(144), sets), 3e-3)


@pytest.fixture(scope="module")
def tofu(tmp_path_factory: pytest.TempPathFactory) -> Case:
    if any(not (DATA / name).exists() for name in FILES):
        pytest.skip(f"no {' and '.join(FILES)} in LETHE_TEST_DATA; authors are made up beside this")
    deterministic()
    tokenizer = novel_tokenizer(DATA, tmp_path_factory.mktemp("novel"))
    task = make_task("causal_lm", language(128, 160, 1e-3, 20, tokenizer=tokenizer))
    # Paraphrases are there of the first authors, in the holdout here, and of the last.
    sets = {
        "forget": range(180, 200),
        "retain": range(20, 44),
        "holdout": [*range(20), *range(44, 180)],
    }
    return _case(make_world(task, tofu_rows(DATA / "tofu.jsonl", EACH), sets), 1e-3)


@pytest.fixture(params=["made_up", "tofu"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def test_every_attack_is_made_or_says_why_not(case: Case) -> None:
    for found in case.found.values():
        made = {one.name for one in found.checks}
        assert made >= SHOWN | USE
        assert {one.name for one in found.checks if one.family in FAMILIES} == ATTACKS
        assert {one.name for one in found.not_run} >= NOT_RUN
        assert made.isdisjoint(one.name for one in found.not_run)
        assert all(one.reason for one in found.not_run)
        assert all(one.n == FORGOTTEN for one in found.checks if one.name in ATTACKS)


def test_a_model_never_unlearned_fails(case: Case) -> None:
    judgement = case.by_statistics("never unlearned")
    assert (judgement.verdict, judgement.by) == ("fail", "statistics")
    assert case.saying("never unlearned", "fail") == ATTACKS - WEAK
    (leading,) = (one for one in case.found["never unlearned"].checks if "leading" in one.details)
    assert leading.details["auc_before"] >= 0.99
    assert leading.estimate == leading.details["auc_before"]
    assert case.by_process("never unlearned").verdict == "fail"


def test_exact_retraining_passes_by_process_and_statistics_leave_it_open(case: Case) -> None:
    by_process = case.by_process("retrained")
    assert (by_process.verdict, by_process.by) == ("pass", "process")
    assert "Shown, not decisive" not in by_process.summary
    by_statistics = case.by_statistics("retrained")
    assert (by_statistics.verdict, by_statistics.by) == ("inconclusive", "statistics")
    assert not case.saying("retrained", "fail")
    # No attack was blind: each saw the records before.
    assert case.saying("retrained", "pass") >= ATTACKS - WEAK - {"reference_loss", "sparse_test"}
    # One in ten of twenty are two people, too few to be seen surely.
    assert "sparse_test" in case.saying("retrained", "inconclusive")
    assert case.check("retrained", "sparse_test").details["power"] < MARGINS.power


def test_gradient_ascent_run_to_collapse_fails(case: Case) -> None:
    judgement = case.by_statistics("collapsed")
    assert (judgement.verdict, judgement.by) == ("fail", "statistics")
    assert case.saying("collapsed", "fail") >= {"utility_retain", "utility_holdout"}
    lost = case.check("collapsed", "utility_retain").estimate
    assert lost is not None
    assert lost < -0.5
    assert case.by_process("collapsed").verdict == "fail"


def test_each_author_has_a_verdict_of_their_own(case: Case) -> None:
    requests = {f"request-{n}" for n in np.unique(case.world.parts.forget.subjects).tolist()}
    assert len(requests) == FORGOTTEN
    by_statistics, found = case.by_statistics("never unlearned"), case.found["never unlearned"]
    kept = judge_own(by_statistics, [], found.own, MARGINS)
    assert {one.request for one in kept} == requests
    # One author is too few to be failed among twenty against such a holdout, and never passes.
    assert {one.verdict for one in kept} == {"inconclusive"}
    erased = judge_own(case.by_process("retrained"), [], case.found["retrained"].own, MARGINS)
    assert {one.request for one in erased} == requests
    assert {one.verdict for one in erased} == {"pass"}
    # The never unlearned scores every one of them above the whole holdout.
    lowest = 1 / (case.check("never unlearned", "tail_test").m + 1)
    assert list(found.own.values()) == pytest.approx([lowest] * FORGOTTEN)
    assert np.median(list(case.found["retrained"].own.values())) > 0.05


def test_the_benchmarks_own_figures_point_the_same_way(case: Case) -> None:
    world, reference = case.world, OTHERS[0]
    ratios = {name: truth_ratios(world, name) for name in world.models}
    kept, erased = (
        forget_quality_evidence(ratios[name], ratios[reference], ratios["never unlearned"])
        for name in ("never unlearned", "retrained")
    )
    assert kept.n >= FORGOTTEN
    assert kept.details["forget_quality"] == kept.positive_control
    assert kept.details["forget_quality"] < erased.details["forget_quality"]
    # A model that knows finds the right answer likelier than the wrong ones.
    assert np.median(ratios["never unlearned"]) < np.median(ratios["retrained"])
    assert forget_truth_score(ratios["retrained"]).max() <= 1

    others = min_40(world, reference)
    leaks = [
        privleak_evidence(*min_40(world, name), *(one.scores for one in others))
        for name in ("never unlearned", "retrained")
    ]
    assert leaks[0].details["privleak_percent"] < -90
    assert abs(leaks[1].details["privleak_percent"]) < 40

    whole, nothing = (
        case.check(name, "residual_fraction").estimate for name in ("never unlearned", "retrained")
    )
    assert whole == pytest.approx(1.0)
    assert nothing == pytest.approx(0.0, abs=0.15)


# The whole service.

PEOPLE = 76
TOGETHER: Json = {"batch_size": FORGOTTEN, "max_wait_hours": 48}
VERIFICATION: Json = {"paraphrase_column": "paraphrased", "references": 2}
WAYS: Mapping[str, Json] = {
    "rebuilt": {"allowed_methods": ["sisa"]},
    # One step that moves nothing: what is called unlearning and is none.
    "touched": {
        "allowed_methods": ["gradient_ascent"],
        "method_parameters": {"gradient_ascent": {"max_steps": 1, "learning_rate": 1e-6}},
    },
}


def _people() -> list[Json]:
    return [
        {"person": f"C{author:03d}", "email": f"person{author}@example.org", **row}
        for author, rows in made_up_rows(PEOPLE, seed=1).items()
        for row in rows
    ]


@pytest.fixture
def town(
    database: Database, doorbell: RecordingDoorbell, settings: Settings, tmp_path: Path
) -> Town:
    deterministic()
    folder = tmp_path / "data"
    folder.mkdir()
    made = Town(database, doorbell, settings, folder)
    made.dataset("authors", _people())
    for name, policy in WAYS.items():
        made.model(
            name,
            "authors",
            "causal_lm",
            MADE_UP,
            shards=2 if name == "rebuilt" else 1,
            holdout_share=0.4,
            policy=TOGETHER | policy | {"verification": VERIFICATION},
        )
    return made


def _learned(town: Town) -> list[tuple[str, str]]:
    """Those whom the models were trained on."""
    everybody = [("email", f"person{author}@example.org") for author in range(PEOPLE)]
    return [
        one
        for one in everybody
        if town.ok(
            Role.DPO,
            "POST",
            "/v1/lineage/trace",
            {"identifiers": [{"type": one[0], "value": one[1]}]},
        )["models"]
    ]


def test_twenty_authors_go_through_the_whole_service(town: Town) -> None:
    learned = _learned(town)
    assert FORGOTTEN < len(learned) < PEOPLE
    requests = {town.erase(one)["id"] for one in learned[:FORGOTTEN]}
    listed = town.ok(Role.ENGINEER, "GET", "/v1/runs?limit=100")["items"]
    runs = {one["model"]: one for one in listed if one["kind"] == "unlearn"}
    assert runs.keys() == WAYS.keys()
    assert len([one for one in listed if one["kind"] == "unlearn"]) == 2

    rebuilt, touched = runs["rebuilt"]["verdict"], runs["touched"]["verdict"]
    assert (rebuilt["verdict"], rebuilt["by"]) == ("pass", "process")
    assert (touched["verdict"], touched["by"]) == ("fail", "statistics")
    assert touched["summary"].startswith("Failed: loss_membership")
    for verdict, own in ((rebuilt, "pass"), (touched, "inconclusive")):
        assert {one["request"] for one in verdict["subjects"]} == requests
        assert {one["verdict"] for one in verdict["subjects"]} == {own}
    assert {town.request(one)["state"] for one in requests} == {"failed"}
    live = {one["model"]: one["version"] for one in town.ok(Role.DPO, "GET", "/v1/deployments")}
    assert live == {"rebuilt": 2, "touched": 1}

    checks = {name: _evidence(town, run["id"]) for name, run in runs.items()}
    assert checks["touched"] >= ATTACKS | SHOWN | USE
    assert "process" in checks["rebuilt"]
    for name, meaning in (("rebuilt", "pass by process"), ("touched", "fail")):
        told = {name, VERDICTS[meaning], *(f">{one}</span>" for one in checks[name])}
        _report(town, runs[name]["id"], told | {f"/requests/{one}" for one in requests})


def _evidence(town: Town, run: str) -> set[str]:
    checks = town.ok(Role.AUDITOR, "GET", f"/v1/runs/{run}/evidence")["checks"]
    assert all(one["n"] == FORGOTTEN for one in checks if one["name"] in ATTACKS)
    return {one["name"] for one in checks}


def _report(town: Town, run: str, told: set[str]) -> None:
    town.http.post("/dashboard/sign-in", data={"api_key": town.token(Role.DPO)})
    page = town.http.get(f"/dashboard/runs/{run}")
    assert page.status_code == 200
    assert {one for one in told if one not in page.text} == set()
    assert "<svg" in page.text
    assert "@example.org" not in page.text
    pdf = town.call(Role.AUDITOR, "GET", f"/v1/runs/{run}/report.pdf")
    assert pdf.status_code == 200
    text = "".join(one.extract_text() for one in PdfReader(BytesIO(pdf.content)).pages)
    assert len(text) > 1_000
    assert "@example.org" not in text
