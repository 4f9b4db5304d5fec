"""Bodies of the log's calls."""

from pydantic import BaseModel, Field


class EntryOut(BaseModel):
    """One numbered entry: the leaf's exact bytes in base64, and its RFC 9162 leaf hash in hex."""

    index: int
    entry: str
    leaf_hash: str


class EntriesOut(BaseModel):
    """A range of entries."""

    items: list[EntryOut]


class ProofOut(BaseModel):
    """Hashes in hex, in the order of RFC 9162 §2.1.3 (inclusion) or §2.1.4 (consistency)."""

    proof: list[str]
    size: int = Field(description="The tree's size that the proof leads to")
    root: str
