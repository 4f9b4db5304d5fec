"""`/v1/audit`: the tamper-evident log, for auditors."""

import base64
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from app.access.dependencies import SessionDep, require
from app.access.service import Caller
from app.audit import service
from app.audit.schemas import EntriesOut, EntryOut, ProofOut
from app.core.db import Database
from app.core.security import Role
from app.models import AuditLeaf

router = APIRouter(prefix="/v1/audit", tags=["Audit log"])
Auditor = Annotated[Caller, Depends(require(Role.AUDITOR, Role.DPO))]
Index = Annotated[int, Query(ge=0, le=2**62)]
NDJSON: Final = "application/x-ndjson"


@router.get("/tree-head", response_class=PlainTextResponse)
def tree_head(_caller: Auditor, session: SessionDep) -> str:
    """Return the newest tree head as a C2SP signed note."""
    return service.tree_head(session).note


@router.get(
    "/entries",
    response_model=EntriesOut,
    responses={200: {"content": {NDJSON: {}}}},
)
def entries(
    request: Request,
    _caller: Auditor,
    session: SessionDep,
    start: Index = 0,
    end: Index | None = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> EntriesOut | Response:
    """Return entries with start <= index < end, at most 1,000.

    With `Accept: application/x-ndjson` the whole log up to the newest tree head comes as a file,
    one entry a line, as `lethe verify --log` reads it; `start` and `end` say nothing then.
    """
    if NDJSON in accept:
        database: Database = request.app.state.database
        return StreamingResponse(_lines(database, service.size(session)), media_type=NDJSON)
    end = start + service.MAX_ENTRIES if end is None else end
    return EntriesOut(items=[_entry(leaf) for leaf in service.entries(session, start, end)])


def _lines(database: Database, size: int) -> Iterator[str]:
    # A transaction for each thousand: none stays open for as long as somebody reads.
    for start in range(0, size, service.MAX_ENTRIES):
        with database.transaction() as session:
            end = min(start + service.MAX_ENTRIES, size)
            leaves = service.entries(session, start, end)
        yield "".join(f"{_entry(leaf).model_dump_json()}\n" for leaf in leaves)


def _entry(leaf: AuditLeaf) -> EntryOut:
    return EntryOut(
        index=leaf.index,
        entry=base64.b64encode(leaf.payload).decode(),
        leaf_hash=leaf.leaf_hash.hex(),
    )


@router.get("/proofs/inclusion")
def inclusion(_caller: Auditor, session: SessionDep, index: Index, size: Index) -> ProofOut:
    """Prove that entry `index` is in the tree of `size`."""
    proof = service.inclusion_proof(session, index, size)
    return _proof(session, proof, size)


@router.get("/proofs/consistency")
def consistency(
    _caller: Auditor,
    session: SessionDep,
    from_: Annotated[int, Query(alias="from", ge=0, le=2**62)],
    to: Index,
) -> ProofOut:
    """Prove that the tree of size `from` is a prefix of the tree of size `to`."""
    proof = service.consistency_proof(session, from_, to)
    return _proof(session, proof, to)


def _proof(session: SessionDep, proof: tuple[bytes, ...], size: int) -> ProofOut:
    root = service.root(session, size)
    return ProofOut(proof=[one.hex() for one in proof], size=size, root=root.hex())
