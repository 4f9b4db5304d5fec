"""`/v1/lineage/trace`: a dry run of what an erasure would touch."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.access.dependencies import SessionDep, SettingsDep, require
from app.access.service import Caller
from app.core.identifiers import Identifier, subject_keys
from app.core.security import Role
from app.lineage import service
from app.lineage.rules import FoundDerived
from app.lineage.schemas import (
    DatasetFound,
    DerivedFound,
    ModelFound,
    ShardFound,
    TraceIn,
    TraceOut,
)

router = APIRouter(prefix="/v1/lineage", tags=["Lineage"])


@router.post("/trace")
def trace(
    body: TraceIn,
    _caller: Annotated[Caller, Depends(require(Role.DPO, Role.ENGINEER))],
    session: SessionDep,
    settings: SettingsDep,
) -> TraceOut:
    """Show which datasets, shards, models and derived artifacts a person reached."""
    secret = settings.subject_secret.get_secret_value().encode()
    named = [Identifier(one.type, one.value.get_secret_value()) for one in body.identifiers]
    keys = subject_keys(secret, named, settings.default_phone_region)
    found = service.trace_subject(session, keys)
    return TraceOut(
        datasets=[
            DatasetFound(dataset=one.name, version=one.version, records=one.records)
            for one in found.datasets
        ],
        models=[
            ModelFound(
                id=one.model_version_id,
                model=one.name,
                version=one.version,
                records=one.records,
                shards=[
                    ShardFound(
                        shard=hit.shard,
                        first_slice=hit.first_slice,
                        slices=list(hit.slices),
                        records=hit.records,
                    )
                    for hit in one.shards
                ],
            )
            for one in found.models
        ],
        derived=[_derived(one) for one in found.derived],
        unknown_lineage=[_derived(one) for one in found.unknown],
    )


def _derived(one: FoundDerived) -> DerivedFound:
    return DerivedFound(kind=one.kind, name=one.name, version=one.version)
