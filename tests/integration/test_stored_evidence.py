"""What a look into rewritten files found, or could not look for, is in the certificate."""

from app.core.security import Role
from tests.integration.town import Json, Town
from tests.integration.worlds import notes, points


def erased(town: Town, rows: list[Json], person: int) -> tuple[Json, Json]:
    """Erase a person from a dataset; return the run, and what the certificate says of it."""
    town.dataset("d", rows)
    request = town.erase(("customer_id", f"C{person:03d}"))
    [action] = request["actions"]
    assert action["state"] == "done"
    [done] = town.verified(request["id"])["predicate"]["done"]
    return town.run(action["run"]), done


def test_a_clean_look_into_the_new_files_is_in_the_certificate(town: Town) -> None:
    run, done = erased(town, notes(12), 3)
    [evidence] = done["evidence"]
    assert (evidence["name"], evidence["threat_model"]) == ("stored_bytes", "T0")
    assert (evidence["verdict"], evidence["estimate"], evidence["n"]) == ("pass", 0, 2)
    assert evidence["reason"] in (one["reason"] for one in run["verdict"]["checks"])
    assert (done["verdict"], run["verdict"]["verdict"]) == (None, None)
    listed = town.ok(Role.AUDITOR, "GET", f"/v1/runs/{run['id']}/evidence")
    assert [one["name"] for one in listed["checks"]] == ["stored_bytes"]


def test_short_identifiers_of_a_table_of_numbers_are_looked_for(town: Town) -> None:
    _, done = erased(town, points(12), 3)
    [evidence] = done["evidence"]
    assert (evidence["verdict"], evidence["estimate"], evidence["n"]) == ("pass", 0, 3)


def test_where_nobody_is_kept_the_look_settles_nothing_and_the_request_closes(town: Town) -> None:
    _, done = erased(town, [one | {"person": "C003"} for one in notes(1)], 3)
    [evidence] = done["evidence"]
    assert evidence["verdict"] == "inconclusive"
    assert "no kept record was there" in evidence["reason"]


def test_what_could_not_be_looked_for_is_said_on_the_run_and_in_the_certificate(
    town: Town,
) -> None:
    rows = [{"person": f"C{one % 12:03d}", "email": None, "x": one} for one in range(24)]
    run, done = erased(town, rows, 3)
    assert run["verdict"] is None
    [untold] = [one for step in run["steps"] for one in (step["result"] or {}).get("not_run", [])]
    assert untold["name"] == "stored_bytes"
    assert untold["reason"].startswith("of 2 erased records, 2 hold no long text")
    [evidence] = done["evidence"]
    assert (evidence["verdict"], evidence["n"], evidence["estimate"]) == ("inconclusive", 0, None)
    assert untold["reason"] in evidence["reason"]
    assert "C003" not in str(run) + str(done)
