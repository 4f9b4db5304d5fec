"""The engine and the commit rule: one request or task is one transaction, committed only here."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from app.core.queue import Doorbell, take_bells


class Database:
    """One synchronous engine and the unit of work over it."""

    def __init__(self, url: str, doorbell: Doorbell, *, pool_size: int = 10) -> None:
        self.engine = create_engine(
            url,
            pool_size=pool_size,
            pool_pre_ping=True,
            # An error text must not carry the values of a statement into a log.
            hide_parameters=True,
            connect_args={"connect_timeout": 5},
        )
        self._doorbell = doorbell

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit at the end, or roll back on any exception; ring only after the commit."""
        with Session(self.engine, expire_on_commit=False) as session:
            with session.begin():
                yield session
            bells = take_bells(session)
        for bell in bells:
            self._doorbell.send(bell)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
