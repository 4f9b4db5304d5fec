"""The declarative base: naming of constraints, and the types that every table uses."""

from datetime import datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, LargeBinary, MetaData, String, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column
from uuid_utils.compat import uuid7

Json = dict[str, Any]
JsonList = list[Any]


def new_id() -> UUID:
    """Return a fresh UUIDv7 (RFC 9562 §5.7): ids sort by the time they were made."""
    return UUID(int=uuid7().int)


UuidKey = Annotated[UUID, mapped_column(primary_key=True, default=new_id)]
BigKey = Annotated[int, mapped_column(BigInteger, primary_key=True, autoincrement=True)]
Big = Annotated[int, mapped_column(BigInteger)]


class Base(DeclarativeBase):
    """All tables of the service."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        bytes: LargeBinary,
        Json: JSONB,
        JsonList: JSONB,
        UUID: Uuid,
        str: String,
    }
