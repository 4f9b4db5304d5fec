"""Bodies of the inventory's calls: datasets, models, lineage edges, deployments, suppressions."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.clock import Moment
from app.core.identifiers import IDENTIFIER_TYPE_PATTERN
from app.core.plain_text import Reason
from lethe.methods.spec import ByDefault

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

MethodName = Annotated[str, Field(max_length=100)]


class Column(BaseModel):
    """A column that names people, and what kind of identifier it holds."""

    model_config = ConfigDict(extra="forbid")
    column: str = Field(min_length=1, max_length=200)
    type: str = Field(pattern=IDENTIFIER_TYPE_PATTERN)


class DatasetIn(BaseModel):
    """A collection of records."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    owner: Column = Field(description="The one column that names whom a record is filed under")
    aliases: list[Column] = Field(default=[], description="Other columns that name the owner")
    mentions: list[Column] = Field(default=[], description="Columns that name other people")


class DatasetOut(DatasetIn):
    """A registered dataset."""

    created_at: datetime


class DatasetVersionIn(BaseModel):
    """One immutable snapshot at a URI that the workers can read."""

    model_config = ConfigDict(extra="forbid")
    version: Name
    uri: str = Field(min_length=1, max_length=2000, examples=["file:///data/patients.parquet"])
    format: Literal["parquet", "csv", "jsonl"]
    rewritable: bool = Field(
        default=True, description="Lethe may rewrite the file without erased records"
    )
    collected_at: Moment | None = Field(
        default=None,
        description="When the data was collected. A suppression covers what was collected before "
        "its request was received; without a date, everything",
    )


class DatasetVersionOut(BaseModel):
    """A dataset version and how far its index is."""

    dataset: str
    version: str
    uri: str
    format: str
    state: str
    digest: str | None
    record_count: int | None
    skipped_identifiers: int | None


class WindowIn(BaseModel):
    """Hours of the day in UTC, over midnight where the end comes before the start."""

    model_config = ConfigDict(extra="forbid")
    start: TimeOfDay = Field(examples=["22:00"])
    end: TimeOfDay = Field(examples=["05:00"])
    weekdays: list[Weekday] | None = Field(
        default=None, min_length=1, max_length=7, description="On which it opens; none: on each"
    )

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.start == self.end:
            raise ValueError("a window needs a start and another end")
        return self


class SuppliedTestIn(BaseModel):
    """Records of nobody's, on which a version must be as good as the one before."""

    model_config = ConfigDict(extra="forbid")
    uri: str = Field(min_length=1, max_length=2000)
    format: Literal["csv", "jsonl", "parquet"] = "jsonl"


class VerificationIn(BaseModel):
    """How a model's versions are measured, beyond what is measured of all."""

    model_config = ConfigDict(extra="forbid")
    battery: Literal["short", "full"] = Field(
        default="full",
        description="`short` leaves out the attacks that train, generate or prompt. Exact methods "
        "are always measured by the short one, since their process decides",
    )
    references: int = Field(
        default=0,
        ge=0,
        le=16,
        description="Small models trained without the records, to calibrate attacks; not kept",
    )
    relearning_steps: int = Field(default=20, ge=1, le=1000)
    relearning_rate: float | None = Field(
        default=None, gt=0, le=1, allow_inf_nan=False, description="None: that of its training"
    )
    paraphrase_column: str | None = Field(
        default=None, description="Column with another wording of each record's text"
    )
    translation_column: str | None = Field(
        default=None, description="Column with each record's text in another language"
    )
    canary_column: str | None = Field(
        default=None, description="Column with a secret, such as a card number, that texts hold"
    )
    group_column: str | None = Field(
        default=None, description="Column by whose values utility is compared group by group"
    )
    downstream: SuppliedTestIn | None = None


class PolicyIn(BaseModel):
    """What erasure may do to a model."""

    model_config = ConfigDict(extra="forbid")
    minimum_guarantee: Literal["exact", "certified", "approximate"] = "approximate"
    allowed_methods: list[MethodName] | None = Field(
        default=None,
        description="As `GET /v1/methods` lists them; none: those used by default",
    )
    exact_not_before: Moment | None = None
    retraining_every_days: int | None = Field(default=None, ge=1, le=3650)
    method_parameters: dict[str, dict[str, Any]] = Field(
        default={}, description="Per approximate method, its parameters where not the defaults"
    )
    window: WindowIn | None = Field(
        default=None,
        description="Exact retraining starts only then, unless a deadline would be missed",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="A run starts when so many requests wait in it. Without `max_wait_hours` it "
        "waits for them as long as the deadlines allow",
    )
    max_wait_hours: float | None = Field(
        default=None,
        gt=0,
        le=8760,
        allow_inf_nan=False,
        description="A run waits so long for more requests, never past what the deadlines allow",
    )
    budget_seconds: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="A method that is predicted to take longer in one run is not used",
    )
    utility_drop: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Accuracy that a version may lose; none: the operator's limit",
    )
    verification: VerificationIn = VerificationIn()


class ModelIn(BaseModel):
    """A family of model versions trained by one recipe."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    recipe: str | None = Field(
        default=None, description="As `GET /v1/recipes` lists them; none: Lethe cannot retrain it"
    )
    parameters: dict[str, Any] = {}
    shards: int = Field(default=1, ge=1, le=1024)
    slices: int = Field(default=1, ge=1, le=64)
    holdout_share: float = Field(
        default=0.2, ge=0, le=0.9, description="Share of owners whose records are never trained on"
    )
    policy: PolicyIn = PolicyIn()


class ModelOut(BaseModel):
    """A registered model and its versions."""

    id: UUID
    name: str
    recipe: str | None
    parameters: dict[str, Any]
    shards: int
    slices: int
    policy: dict[str, Any]
    versions: list[dict[str, Any]]


class InputRef(BaseModel):
    """A dataset version by name."""

    model_config = ConfigDict(extra="forbid")
    dataset: Name
    version: Name


class ModelVersionIn(BaseModel):
    """A model version that was trained elsewhere."""

    model_config = ConfigDict(extra="forbid")
    inputs: list[InputRef] = Field(
        default=[], description="None: its lineage is unknown, and is reported so"
    )


class ArtifactRef(BaseModel):
    """An artifact by kind, name and version; made known on first mention."""

    model_config = ConfigDict(extra="forbid")
    kind: str = Field(pattern=r"^[a-z][a-z_]{1,40}$", examples=["embedding_index"])
    name: Name
    version: Name | None = None


class EdgeIn(BaseModel):
    """Influence flows from parent to child."""

    model_config = ConfigDict(extra="forbid")
    parent: ArtifactRef
    child: ArtifactRef
    relation: str = Field(default="derived_from", pattern=r"^[a-z][a-z_]{1,40}$")


class DeploymentIn(BaseModel):
    """Where a model version is served; the newest live version unless one is named."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    model: Name
    version: int | None = Field(default=None, ge=1)
    url: str | None = Field(default=None, max_length=2000)


class DeploymentOut(BaseModel):
    """A deployment and what it serves now."""

    id: UUID
    name: str
    model: str
    version: int
    url: str | None
    history: list[dict[str, Any]]


class MethodOut(BaseModel):
    """An unlearning method: what it promises, needs and costs, and what a policy may set."""

    name: str
    version: int
    guarantee: str
    by_default: ByDefault = Field(
        description="For which models it is considered where no policy names it: all (`always`), "
        "language models (`text`), the others (`other`) or none (`named`)"
    )
    requires: list[str]
    evidence: list[str] = Field(description="The checks that its verdict rests on besides utility")
    parameters: dict[str, Any] = Field(description="JSON schema of `method_parameters.<name>`")
    summary: str
    cost: str
    refused: str


class RecipeOut(BaseModel):
    """A way to train a model."""

    name: str
    version: int
    parameters: dict[str, Any] = Field(description="JSON schema of a model's `parameters`")


class SuppressionOut(BaseModel):
    """A subject key that later training leaves out."""

    id: UUID
    subject_key: UUID
    request: UUID
    received_at: datetime
    lifted_at: datetime | None


class LiftIn(BaseModel):
    """Why a suppression is lifted."""

    model_config = ConfigDict(extra="forbid")
    reason: Reason
