"""The main job, as the demo plays it, over HTTP alone: here, or against any running Lethe.

Against a running one, set LETHE_E2E_URL; LETHE_E2E_PORTAL_KEY, _DPO_KEY, _ENGINEER_KEY and
_AUDITOR_KEY; LETHE_E2E_DATA, a folder to write the datasets into; and LETHE_E2E_DATA_URI, that
folder as the workers see it. Each run brings people, datasets and models of its own.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pypdf import PdfReader

from app.core.clock import utc_now
from app.supervisor.local import local_lethe
from app.supervisor.servers import SOCKET_PARENT
from demo import job, offline
from demo.data import DemoDataset, write_datasets
from demo.models import DemoModel, demo_models
from demo.people import Person, people
from lethe.certificate import CertificateInvalid, verify_bundle
from lethe.client import JsonObject, Lethe
from lethe.keys import PublicKeys, parse_public_keys
from lethe.log_export import audit_log
from lethe.notes import open_checkpoint

# Once for all tests of the module, so all of them in one process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
REASON = "One person is too few to measure; exact retraining follows on the date."
CLOSED = frozenset({"completed", "partially_completed"})


@dataclass(frozen=True)
class Service:
    """A running Lethe: its callers, the folder for datasets here and there, its logs if at hand."""

    callers: job.Callers
    data: Path
    data_uri: str
    logs: Path | None


@dataclass(frozen=True)
class Job:
    """The main job, done, and what was seen on the way."""

    tag: str
    models: list[DemoModel]
    datasets: list[DemoDataset]
    person: Person
    trace: JsonObject
    plan: JsonObject
    promised_for: str
    request: JsonObject
    runs: job.Runs
    files: offline.AuditFiles
    keys: PublicKeys

    def named(self, model: str) -> str:
        return f"{model}{self.tag}"


def ignore(_runs: job.Runs) -> None:
    """Nobody looks on."""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with ExitStack() as stack:
        url = os.environ.get("LETHE_E2E_URL")
        if url is not None:
            given = {role: os.environ[f"LETHE_E2E_{role.upper()}_KEY"] for role in job.ROLES}
            callers = stack.enter_context(job.callers(url, given))
            data = Path(os.environ["LETHE_E2E_DATA"])
            yield Service(callers, data, os.environ["LETHE_E2E_DATA_URI"], None)
            return
        # No proxy leads to this machine.
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("no_proxy", "127.0.0.1")
        folder = Path(tempfile.mkdtemp(prefix="lethe-test-", dir=SOCKET_PARENT))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o711)
        local = stack.enter_context(
            local_lethe(folder / "var", port=0, compute_workers=2, tell=lambda _: None)
        )
        with Lethe(local.url, local.admin_key.read_text().strip()) as admin:
            api_keys = job.create_api_keys(admin)
        callers = stack.enter_context(job.callers(local.url, api_keys))
        yield Service(callers, folder, folder.as_uri(), folder / "var" / "log")


@pytest.fixture(scope="module")
def done(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Job:
    tag, now = f"-{uuid.uuid4().hex[:8]}", utc_now()
    engineer, dpo, auditor = (
        service.callers.engineer,
        service.callers.dpo,
        service.callers.auditor,
    )
    everybody = people(tag)
    datasets = write_datasets(service.data, everybody, tag)
    job.register_datasets(engineer, datasets, service.data_uri, now)
    job.await_runs(engineer, job.index_datasets(engineer, datasets), ignore)
    models = demo_models(now + job.RETRAINING_FROZEN, tag)
    job.register_models(engineer, models)
    job.await_runs(engineer, job.train_models(engineer, models, datasets), ignore)
    job.deploy_models(engineer, models)
    person, trace = job.choose_person(engineer, everybody, models)
    posted = job.submit_request(service.callers.portal, job.identifiers_of(person), now)
    job.await_state(dpo, posted["id"], frozenset({"awaiting_approval"}))
    plan = dpo.plan(posted["id"])
    dpo.approve(posted["id"], {})
    runs = job.await_verdicts(dpo, posted["id"], ignore)
    promised_for = job.accept_verdict(dpo, posted["id"], REASON)
    request = job.await_closed(dpo, posted["id"], ignore)
    public_keys = auditor.public_keys()
    files = offline.collect(auditor, posted["id"], public_keys, tmp_path_factory.mktemp("papers"))
    return Job(
        tag=tag,
        models=models,
        datasets=datasets,
        person=person,
        trace=trace,
        plan=plan,
        promised_for=promised_for,
        request=request,
        runs=runs,
        files=files,
        keys=parse_public_keys(public_keys),
    )


def predicate_of(bundle: bytes, keys: PublicKeys) -> JsonObject:
    predicate = verify_bundle(bundle, keys).statement["predicate"]
    assert isinstance(predicate, dict)
    return predicate


def test_the_request_is_completed_within_its_clock(done: Job) -> None:
    assert done.request["state"] == "completed"
    assert done.request["sla"]["status"] == "met"
    assert done.request["failure"] is None


def test_the_planner_chose_another_method_for_each_model(done: Job) -> None:
    chosen = {one["artifact"]: one["method"] for one in done.plan["actions"]}
    expected = {f"{one.name}@1": one.expected_method for one in done.models}
    assert chosen == expected | {f"{one.name}@1": "erase_records" for one in done.datasets}
    (language,) = (
        one for one in done.plan["actions"] if one["artifact"] == f"{done.named('notes-lm')}@1"
    )
    reasons = {one["method"]: one["reason"] for one in language["candidates"]}
    assert "after the deadline" in reasons["retrain"]


def test_every_action_is_done_but_the_one_that_is_promised(done: Job) -> None:
    states = {one["artifact"]: one["state"] for one in done.request["actions"]}
    promised = f"{done.named('notes-lm')}@1"
    assert states.pop(promised) == "committed"
    assert set(states.values()) == {"done"}
    assert len(states) == 5


def test_sisa_trained_the_one_shard_again_from_the_checkpoint_before_the_person(done: Job) -> None:
    name = done.named("digits-sisa")
    (found,) = (one for one in done.trace["models"] if one["model"] == name)
    (hit,) = found["shards"]
    trained = [one for one in done.runs[f"{name}@1"]["steps"] if one["kind"] == "train_shard"]
    assert [one["result"]["shard"] for one in trained] == [hit["shard"]]
    assert trained[0]["result"]["resumed_after"] == hit["first_slice"] - 1 >= 0


def test_exact_methods_passed_and_the_approximate_one_was_accepted(
    service: Service, done: Job
) -> None:
    verdicts = {
        run["model"]: (run["verdict"]["verdict"], run["verdict"]["by"])
        for run in done.runs.values()
    }
    assert verdicts == {
        done.named("digits-sisa"): ("pass", "process"),
        done.named("patients-net"): ("pass", "process"),
        done.named("notes-lm"): ("inconclusive", "statistics"),
    }
    language = done.runs[f"{done.named('notes-lm')}@1"]
    assert service.callers.dpo.run(language["id"])["accepted"]["reason"] == REASON
    unlearned = language["steps"][0]["result"]
    assert unlearned["status"] == "reached"
    assert unlearned["forget_loss"][1] <= unlearned["holdout_loss"]


def test_the_language_model_is_attacked_in_every_way_that_its_policy_lets(
    service: Service, done: Job
) -> None:
    run = done.runs[f"{done.named('notes-lm')}@1"]
    evidence = service.callers.auditor.evidence(run["id"])
    made = {one["name"] for one in evidence["checks"]}
    assert made >= {
        *("loss_membership", "zlib", "min_k", "min_k_plus_plus", "target_rank"),
        *("exact_memorisation", "extraction_strength", "greedy_extraction", "sampled_extraction"),
        *("quantised_int8", "quantised_int4", "relearning", "in_context", "jailbreak_prompts"),
        *("probe", "prompted_baseline", "tail_test", "sparse_test", "utility_similar"),
    }
    missed = {
        one["name"]: one["reason"]
        for step in run["steps"]
        for one in (step["result"] or {}).get("not_run", [])
    }
    assert set(missed) >= {"translated", "paraphrased", "downstream", "blind_baseline"}
    assert all(missed.values())
    (own,) = evidence["verdict"]["subjects"]
    assert (own["request"], own["verdict"]) == (done.request["id"], "inconclusive")


def test_an_auditor_takes_the_report_of_each_run(
    service: Service, done: Job, tmp_path: Path
) -> None:
    auditor = service.callers.auditor
    for run in done.runs.values():
        report = offline.collect_report(auditor, run["id"], run["model"], tmp_path)
        assert report.name == f"report-{run['model']}.pdf"
        text = " ".join(page.extract_text() for page in PdfReader(report).pages)
        assert run["verdict"]["verdict"] in text
        for said in (done.person.person_id, done.person.email, done.person.name):
            assert said not in text


def test_every_deployment_serves_the_new_version_and_the_old_one_is_destroyed(
    service: Service, done: Job
) -> None:
    served = {one["name"]: one for one in service.callers.dpo.deployments()}
    for model in done.models:
        deployment = served[model.deployment]
        assert deployment["version"] == 2
        assert [one["version"] for one in deployment["history"]] == [1, 2]
        versions = service.callers.engineer.model(model.name)["versions"]
        assert [one["state"] for one in versions] == ["destroyed", "live"]


def test_the_person_is_found_only_where_a_promise_stands(service: Service, done: Job) -> None:
    trace = service.callers.engineer.trace(job.identifiers_of(done.person))
    assert trace["datasets"] == []
    assert [(one["model"], one["version"]) for one in trace["models"]] == [
        (done.named("notes-lm"), 2)
    ]
    promises = [
        one for one in service.callers.dpo.commitments() if one["request"] == done.request["id"]
    ]
    assert [(one["model"], one["state"]) for one in promises] == [(done.named("notes-lm"), "open")]
    assert datetime.fromisoformat(promises[0]["due_at"]) == datetime.fromisoformat(
        done.promised_for
    )


def test_the_person_is_on_the_suppression_list(service: Service, done: Job) -> None:
    listed, cursor = [], None
    while True:
        page = service.callers.engineer.suppressions(cursor=cursor)
        listed += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break
    (mine,) = (one for one in listed if one["request"] == done.request["id"])
    assert mine["lifted_at"] is None


def test_no_file_holds_the_person_any_more(service: Service, done: Job) -> None:
    for dataset in done.datasets:
        version = service.callers.engineer.dataset_version(dataset.name, dataset.version)
        name = version["uri"].rpartition("/")[2]
        assert name != dataset.file_name
        assert not (service.data / dataset.file_name).exists()
        content = (service.data / name).read_bytes()
        if dataset.format == "jsonl":
            assert done.person.person_id.encode() not in content
            assert done.person.email.encode() not in content
            assert 0 < dataset.records - len(content.splitlines()) <= 6


def test_the_certificate_verifies_offline_and_says_what_was_done(done: Job) -> None:
    bundle = done.files.certificate.read_bytes()
    verified = verify_bundle(bundle, done.keys)
    assert verified.request_id == done.request["id"]
    predicate = predicate_of(bundle, done.keys)
    assert predicate["request"]["outcome"] == "completed"
    assert predicate["request"]["within_clock"] is True
    assert {one["artifact"]: (one["method"], one["guarantee"]) for one in predicate["done"]} == {
        f"model/{done.named('digits-sisa')}@1": ("sisa", "exact"),
        f"model/{done.named('patients-net')}@1": ("retrain", "exact"),
        f"model/{done.named('notes-lm')}@1": ("impair_repair", "approximate"),
    } | {f"dataset/{one.name}@1": ("erase_records", "exact") for one in done.datasets}
    assert [one["promise"] for one in predicate["commitments"]] == ["exact_retraining"]
    assert any("not evidence of forgetting" in one for one in predicate["not_guaranteed"])
    for said in (done.person.person_id, done.person.email, done.person.name, REASON):
        assert said.encode() not in bundle
        assert said not in str(verified.statement)


def test_the_whole_log_is_what_its_tree_head_signs(done: Job) -> None:
    checkpoint = open_checkpoint(done.files.tree_head.read_bytes(), done.keys.log)
    with done.files.entries.open("rb") as lines:
        assert audit_log(lines, [checkpoint]).covered == checkpoint.size


def test_a_forged_certificate_does_not_verify(done: Job) -> None:
    bundle = done.files.certificate.read_bytes()
    forged = offline.forge(bundle)
    assert sum(a != b for a, b in zip(bundle, forged, strict=True)) == 1
    with pytest.raises(CertificateInvalid, match="step 2"):
        verify_bundle(forged, done.keys)


def test_no_log_names_the_person(service: Service, done: Job) -> None:
    if service.logs is None:
        pytest.skip("the service's logs are elsewhere")
    logs = list(service.logs.iterdir())
    assert {"api.log", "control.log", "compute-1.log", "postgres.log"} <= {one.name for one in logs}
    for log in logs:
        content = log.read_text(errors="replace").casefold()
        for said in (done.person.person_id, done.person.email, done.person.name):
            assert said.casefold() not in content, log.name


def test_a_person_in_no_dataset_gets_a_certificate_that_says_so(service: Service) -> None:
    nobody = [{"type": "email", "value": f"nobody-{uuid.uuid4().hex}@example.org"}]
    posted = job.submit_request(service.callers.portal, nobody, utc_now())
    request = job.await_state(service.callers.portal, posted["id"], CLOSED)
    assert (request["state"], request["actions"]) == ("completed", [])
    assert request["sla"]["status"] == "met"
    keys = parse_public_keys(service.callers.auditor.public_keys())
    predicate = predicate_of(service.callers.portal.certificate(posted["id"]), keys)
    assert (predicate["found"], predicate["done"]) == ([], [])
    assert predicate["not_guaranteed"][0].startswith("No record was found")
    received = datetime.fromisoformat(predicate["request"]["received_at"])
    assert utc_now() - received >= timedelta(days=1) - timedelta(seconds=1)
