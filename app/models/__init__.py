"""SQLAlchemy tables, one file a field. Columns only: no relationship loads by itself."""

from app.models.audit import AuditLeaf, AuditNode, AuditPending, TreeHead
from app.models.base import Base, new_id
from app.models.execution import (
    Action,
    Certificate,
    Commitment,
    Evidence,
    Run,
    Step,
    Worker,
)
from app.models.intake import (
    ApiKey,
    ErasureRequest,
    IdempotentCall,
    RequestKey,
    RequestSubject,
)
from app.models.inventory import (
    PARTITIONS,
    Artifact,
    Dataset,
    DatasetVersion,
    Edge,
    ErasedRecord,
    SubjectRecord,
    SuppressedRecord,
    Suppression,
)
from app.models.registry import (
    Checkpoint,
    Deployment,
    ManifestExclusion,
    MeasuredRate,
    Model,
    ModelInput,
    ModelSlice,
    ModelVersion,
)

__all__ = [
    "PARTITIONS",
    "Action",
    "ApiKey",
    "Artifact",
    "AuditLeaf",
    "AuditNode",
    "AuditPending",
    "Base",
    "Certificate",
    "Checkpoint",
    "Commitment",
    "Dataset",
    "DatasetVersion",
    "Deployment",
    "Edge",
    "ErasedRecord",
    "ErasureRequest",
    "Evidence",
    "IdempotentCall",
    "ManifestExclusion",
    "MeasuredRate",
    "Model",
    "ModelInput",
    "ModelSlice",
    "ModelVersion",
    "RequestKey",
    "RequestSubject",
    "Run",
    "Step",
    "SubjectRecord",
    "SuppressedRecord",
    "Suppression",
    "TreeHead",
    "Worker",
    "new_id",
]
