"""Whatever is sent to the described operations is answered as the document says, never by a 500."""

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, CheckFunction, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from app.core.security import Role
from tests.integration.town import Town
from tests.integration.worlds import points

EXAMPLES = 2
# What fits the schema may still be refused (an unknown regime, a name that is taken), and a query
# parameter that nobody asked for is passed over.
LEFT_OUT: list[CheckFunction] = [positive_data_acceptance, negative_data_rejection]


@pytest.fixture
def lived_in(town: Town) -> Town:
    """A town with workers and something to list: a dataset, a closed request, an open one."""
    town.compute.beat()
    town.control.beat()
    town.dataset("d", points(4))
    town.erase(("email", "person1@example.org"))
    town.ask(("email", "person2@example.org"))
    return town


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("role", list(Role))
def test_every_operation_keeps_to_the_document(
    lived_in: Town, role: Role, mode: GenerationMode, subtests: pytest.Subtests
) -> None:
    headers = {"Authorization": f"Bearer {lived_in.token(role)}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", lived_in.http.app)
    asked = set()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)  # each operation of the document can be read
        operation = found.ok()
        label = operation.label

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def keeps_to_the_document(case: Case[Any]) -> None:
            asked.add(case.operation.label)
            case.call_and_validate(headers=headers, excluded_checks=LEFT_OUT)

        # An operation without parameters and body cannot be called wrongly.
        with subtests.test(label), suppress(Unsatisfiable):
            keeps_to_the_document()
    assert len(asked) > 30


def test_every_operation_says_what_it_does(town: Town) -> None:
    document = town.http.get("/openapi.json").json()
    silent, untold = [], []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if not (operation.get("summary") and operation.get("description")):
                silent.append(f"{method} {path}")
            if "4XX" not in operation["responses"]:
                untold.append(f"{method} {path}")
    assert silent == untold == []
    assert len(document["paths"]) > 30
