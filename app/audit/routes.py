"""`/v1/audit`: the tamper-evident log, for auditors."""

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse

from app.access.dependencies import SessionDep, require
from app.access.service import Caller
from app.audit import service
from app.audit.schemas import EntriesOut, EntryOut, ProofOut
from app.core.security import Role

router = APIRouter(prefix="/v1/audit", tags=["Audit log"])
Auditor = Annotated[Caller, Depends(require(Role.AUDITOR, Role.DPO))]
Index = Annotated[int, Query(ge=0, le=2**62)]


@router.get("/tree-head", response_class=PlainTextResponse)
def tree_head(_caller: Auditor, session: SessionDep) -> str:
    """Return the newest tree head as a C2SP signed note."""
    return service.tree_head(session).note


@router.get("/entries")
def entries(_caller: Auditor, session: SessionDep, start: Index, end: Index) -> EntriesOut:
    """Return entries with start <= index < end, at most 1,000."""
    return EntriesOut(
        items=[
            EntryOut(
                index=leaf.index,
                entry=base64.b64encode(leaf.payload).decode(),
                leaf_hash=leaf.leaf_hash.hex(),
            )
            for leaf in service.entries(session, start, end)
        ]
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
