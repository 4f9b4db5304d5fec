"""Brings a database up to date as its owner, and lets the lesser role in that serves it.

The tables' grants are made by the migrations themselves, to the role `lethe_app`; here that role,
or one that is a member of it, gets its login.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

import migrations
from app.core.errors import AppError

SERVING_ROLE = "lethe_app"


class MigrationRefused(AppError):
    """The database cannot be migrated."""

    slug = "migration-refused"
    advice = (
        "Set LETHE_OWNER_DATABASE_URL to the role that owns the database, then `lethe migrate`."
    )


def migrate(owner_url: str, app_url: str) -> None:
    """Run every pending migration as the owner, then let the role of `app_url` log in.

    The role is created where it is missing. A password found in `app_url` becomes its password,
    sent as a SCRAM verifier (RFC 5802), so that no server log holds it. An owner without CREATEROLE
    leaves a role that exists as it is. Two calls at once wait for each other.

    Raises:
        MigrationRefused: the database does not answer, both URLs name one role, or the role is
            missing and the owner may not create it.
    """
    role, password = _role_of(app_url)
    if role == _role_of(owner_url)[0]:
        raise MigrationRefused(
            "The service would run as the owner of its tables, and no grant would bind it.",
            advice=f"Name another role in LETHE_DATABASE_URL, such as {SERVING_ROLE}.",
        )
    engine = create_engine(owner_url, connect_args={"connect_timeout": 5})
    try:
        with engine.connect() as connection:
            _upgrade(connection)
            with connection.begin():
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtext('lethe.migrations'))")
                )
                _allow_login(connection, role, password)
    except OperationalError as error:
        raise MigrationRefused(
            "The database does not answer as the owner role.",
            advice="Check host, port, role and password of LETHE_OWNER_DATABASE_URL.",
        ) from error
    finally:
        engine.dispose()


def _role_of(url: str) -> tuple[str, str | None]:
    parsed = make_url(url)
    if parsed.username is None:
        raise MigrationRefused(
            "A database URL names no role (postgresql+psycopg://ROLE@host/name)."
        )
    return parsed.username, parsed.password


def _upgrade(connection: Connection) -> None:
    config = Config(attributes={"connection": connection})
    folder = Path(migrations.__file__).parent
    # A percent sign in a path would be read as the start of a substitution.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    command.upgrade(config, "head")


def _allow_login(connection: Connection, role: str, password: str | None) -> None:
    can_login = connection.execute(
        text("SELECT rolcanlogin FROM pg_roles WHERE rolname = :role"), {"role": role}
    ).scalar()
    if not _may_manage_roles(connection):
        if not can_login:
            raise MigrationRefused(
                f"The role {role} cannot log in and the owner may not change roles.",
                advice=f"Have an administrator run: CREATE ROLE {role} LOGIN, with its password.",
            )
        return
    driver = connection.connection.driver_connection
    if driver is None:
        raise MigrationRefused("The database connection was closed meanwhile.")
    verb = sql.SQL("CREATE" if can_login is None else "ALTER")
    statement = sql.SQL("{} ROLE {} LOGIN").format(verb, sql.Identifier(role))
    if password is not None:
        verifier = driver.pgconn.encrypt_password(
            password.encode(), role.encode(), b"scram-sha-256"
        )
        statement += sql.SQL(" PASSWORD {}").format(sql.Literal(verifier.decode()))
    driver.execute(statement)
    if role != SERVING_ROLE:
        driver.execute(
            sql.SQL("GRANT {} TO {}").format(sql.Identifier(SERVING_ROLE), sql.Identifier(role))
        )


def _may_manage_roles(connection: Connection) -> bool:
    return bool(
        connection.execute(
            text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        ).scalar()
    )
