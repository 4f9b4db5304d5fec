"""The keyed hashes of one dataset, as the connectors ask for them."""

from dataclasses import dataclass
from uuid import UUID

from app.core.identifiers import InvalidIdentifier, normalise, owner_bucket, subject_key


@dataclass(frozen=True, slots=True)
class DatasetHashers:
    """Subject keys under the service's secret, buckets under the dataset's own key."""

    subject_secret: bytes
    dataset_key: bytes
    default_region: str | None

    def subject_key(self, identifier_type: str, value: str) -> UUID | None:
        """Return the subject key of a value, or None when it is no identifier of that type."""
        try:
            normal = normalise(identifier_type, value, self.default_region)
        except InvalidIdentifier:
            return None
        return subject_key(self.subject_secret, identifier_type, normal)

    def bucket(self, identifier_type: str, value: str) -> int:
        """Return the owner's bucket (0 to 65535) of a value that has a subject key."""
        return owner_bucket(
            self.dataset_key, normalise(identifier_type, value, self.default_region)
        )
