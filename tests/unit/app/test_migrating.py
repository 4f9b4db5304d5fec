"""Migrating: the schema by its owner, the login for the role that serves."""

from collections.abc import Iterator
from typing import Protocol

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import make_url, text

from app.core.db import Database
from app.core.migrations import MigrationRefused, migrate


class Urls(Protocol):
    owner_url: str
    app_url: str


class Server(Protocol):
    owner_url: str

    def create(self) -> Urls: ...
    def copy_template(self) -> Urls: ...
    def drop(self, urls: Urls) -> None: ...


def connect(url: str) -> "psycopg.Connection[tuple[object, ...]]":
    plain = make_url(url).set(drivername="postgresql")
    return psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True)


@pytest.fixture
def empty(postgres: Server) -> Iterator[Urls]:
    urls = postgres.create()
    yield urls
    postgres.drop(urls)


def named(url: str, role: str, password: str | None = None) -> str:
    other = make_url(url).set(username=role)
    if password is not None:
        other = other.set(password=password)
    return other.render_as_string(hide_password=False)


def test_an_empty_database_gets_every_table_and_a_second_time_changes_nothing(empty: Urls) -> None:
    migrate(empty.owner_url, empty.app_url)
    migrate(empty.owner_url, empty.app_url)
    with connect(empty.app_url) as serving:
        assert serving.execute("SELECT count(*) FROM api_key").fetchone() == (0,)


def test_the_serving_role_may_not_change_the_schema(database: Database) -> None:
    with database.engine.connect() as serving:
        with pytest.raises(Exception, match="permission denied") as refused:
            serving.execute(text("CREATE TABLE public.mine (id int)"))
        assert isinstance(refused.value.__cause__, InsufficientPrivilege)


def test_another_role_serves_as_a_member_with_a_password_kept_as_a_verifier(empty: Urls) -> None:
    member = named(empty.app_url, "lethe-member", "it's-a-100%-secret")
    migrate(empty.owner_url, member)
    try:
        with connect(member) as serving:
            assert serving.execute("SELECT count(*) FROM api_key").fetchone() == (0,)
            told = serving.execute(
                "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = user"
            )
            assert told.fetchone() == ("lethe-member", False)
    finally:
        with connect(empty.owner_url) as owner:
            owner.execute('DROP ROLE "lethe-member"')


def test_the_owner_may_not_serve(empty: Urls) -> None:
    with pytest.raises(MigrationRefused, match="as the owner"):
        migrate(empty.owner_url, empty.owner_url)


def test_a_server_that_does_not_answer_is_said_plainly(empty: Urls) -> None:
    nowhere = make_url(empty.owner_url).set(query={}, host="127.0.0.1", port=9, password="hidden")
    with pytest.raises(MigrationRefused, match="does not answer") as refused:
        migrate(nowhere.render_as_string(hide_password=False), empty.app_url)
    assert "hidden" not in str(refused.value)


def test_an_owner_without_createrole_needs_the_login_made_by_an_administrator(
    postgres: Server,
) -> None:
    urls = postgres.copy_template()
    limited = named(urls.owner_url, "lethe_limited", "limited")
    database = make_url(urls.owner_url).database
    with connect(urls.owner_url) as owner:
        owner.execute("CREATE ROLE lethe_limited LOGIN PASSWORD 'limited'")
        owner.execute("GRANT SELECT ON alembic_version TO lethe_limited")
        owner.execute(f'GRANT CREATE ON DATABASE "{database}" TO lethe_limited')
    try:
        migrate(limited, urls.app_url)
        with pytest.raises(MigrationRefused, match="role lethe_absent cannot log in"):
            migrate(limited, named(urls.app_url, "lethe_absent"))
    finally:
        postgres.drop(urls)
        with connect(postgres.owner_url) as owner:
            owner.execute("DROP ROLE lethe_limited")
