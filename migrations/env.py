"""Runs migrations as the owner role; the service's own role never changes the schema."""

from alembic import context
from sqlalchemy import Connection, create_engine, text

from app.core.config import load_settings
from app.models import Base

PARTITION_PREFIX = "subject_record_p"


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Leave the partitions of `subject_record` out: the parent speaks for them."""
    return not (kind == "table" and name is not None and name.startswith(PARTITION_PREFIX))


def run(connection: Connection) -> None:
    """Run every pending migration in one transaction, one process at a time."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=include_name,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('lethe.migrations'))"))
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
else:
    settings = load_settings()
    url = settings.owner_database_url or settings.database_url
    with create_engine(url.get_secret_value()).connect() as own:
        run(own)
