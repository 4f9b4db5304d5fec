"""Files that a recipe starts from: named by content, so that they cannot change unnoticed."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class LocalFolder(BaseModel):
    """A folder on this machine and the digest of what must be in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    def verified(self) -> str:
        """The path, after its content was found to be the content registered.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: the content is another.
        """
        if folder_digest(Path(self.path)) != self.sha256:
            raise ValueError(
                "a checkpoint or tokenizer folder does not hold the files that the recipe names: "
                "restore them, or register a new model version with the new digest"
            )
        return self.path


def folder_digest(folder: Path) -> str:
    """Digest the names and contents of all files below `folder`: SHA-256 in hex.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError("a checkpoint or tokenizer folder is missing on this machine")
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix().encode()
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(len(name).to_bytes(4, "big") + name + content)
    return digest.hexdigest()
