"""Datasets, models, lineage edges, deployments, suppressions: the engineer's calls."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Response

from app.access.dependencies import OnceDep, PageDep, SessionDep, SettingsDep, as_json, require
from app.access.service import Caller
from app.core.clock import utc_now
from app.core.security import Role
from app.inventory import repository, service
from app.inventory.schemas import (
    Column,
    DatasetIn,
    DatasetOut,
    DatasetVersionIn,
    DatasetVersionOut,
    DeploymentIn,
    DeploymentOut,
    EdgeIn,
    LiftIn,
    MethodOut,
    ModelIn,
    ModelOut,
    ModelVersionIn,
    PolicyIn,
    RecipeOut,
    SuppressionOut,
)
from app.models import Dataset, DatasetVersion, Deployment, Model, ModelVersion
from lethe.methods import METHODS
from lethe.recipes import RECIPES

router = APIRouter(tags=["Inventory"])
Engineer = Annotated[Caller, Depends(require(Role.ENGINEER))]
Reader = Annotated[Caller, Depends(require(Role.ENGINEER, Role.DPO, Role.AUDITOR))]
Dpo = Annotated[Caller, Depends(require(Role.DPO))]


@router.post("/v1/datasets", status_code=201, response_model=DatasetOut)
def register_dataset(
    body: DatasetIn, caller: Engineer, session: SessionDep, settings: SettingsDep, once: OnceDep
) -> Response:
    """Register a dataset and name its owner column."""

    def create() -> tuple[Any, str]:
        row = service.register_dataset(session, settings, body, utc_now())
        return as_json(_dataset(row)), f"/v1/datasets/{row.name}"

    return once.answer(caller, 201, create)


@router.get("/v1/datasets")
def list_datasets(_caller: Reader, session: SessionDep) -> list[DatasetOut]:
    """List datasets."""
    return [_dataset(row) for row in repository.datasets(session)]


@router.get("/v1/datasets/{name}")
def get_dataset(name: str, _caller: Reader, session: SessionDep) -> DatasetOut:
    """Return a dataset."""
    return _dataset(service.get_dataset(session, name))


@router.post("/v1/datasets/{name}/versions", status_code=201, response_model=DatasetVersionOut)
def add_dataset_version(
    name: str, body: DatasetVersionIn, caller: Engineer, session: SessionDep, once: OnceDep
) -> Response:
    """Register a snapshot at a URI; index it next."""

    def create() -> tuple[Any, str]:
        row = service.add_dataset_version(session, name, body, utc_now())
        return as_json(_version(name, row)), f"/v1/datasets/{name}/versions/{row.version}"

    return once.answer(caller, 201, create)


@router.get("/v1/datasets/{name}/versions/{version}")
def get_dataset_version(
    name: str, version: str, _caller: Reader, session: SessionDep
) -> DatasetVersionOut:
    """Return a dataset version and how far its index is."""
    return _version(name, service.get_dataset_version(session, name, version))


@router.post("/v1/models", status_code=201, response_model=ModelOut)
def register_model(body: ModelIn, caller: Engineer, session: SessionDep, once: OnceDep) -> Response:
    """Register a model family, its recipe, shards, slices and erasure policy."""

    def create() -> tuple[Any, str]:
        row = service.register_model(session, body, utc_now())
        return as_json(_model(session, row)), f"/v1/models/{row.name}"

    return once.answer(caller, 201, create)


@router.get("/v1/models")
def list_models(_caller: Reader, session: SessionDep) -> list[ModelOut]:
    """List models."""
    return [_model(session, row) for row in repository.models(session)]


@router.get("/v1/models/{name}")
def get_model(name: str, _caller: Reader, session: SessionDep) -> ModelOut:
    """Return a model and its versions."""
    return _model(session, service.get_model(session, name))


@router.put("/v1/models/{name}/policy")
def set_policy(name: str, body: PolicyIn, _caller: Engineer, session: SessionDep) -> ModelOut:
    """Change what erasure may do to a model; runs that are planned already look at it again."""
    return _model(session, service.set_policy(session, name, body, utc_now()))


@router.post("/v1/models/{name}/versions", status_code=201)
def add_model_version(
    name: str, body: ModelVersionIn, caller: Engineer, session: SessionDep, once: OnceDep
) -> Response:
    """Register a version that was trained elsewhere, so that traces find it."""

    def create() -> tuple[Any, str]:
        row = service.add_model_version(session, name, body.inputs, utc_now())
        return service.describe_version(row), f"/v1/models/{name}"

    return once.answer(caller, 201, create)


@router.get(
    "/v1/models/{name}/versions/{version}/manifest",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}},
)
def get_manifest(
    name: str,
    version: Annotated[int, Path(ge=1, le=2**31 - 1)],
    _caller: Reader,
    session: SessionDep,
    settings: SettingsDep,
) -> Response:
    """Return a version's manifest, byte for byte: its SHA-256 is the one a certificate names."""
    stored = service.manifest(session, settings, name, version)
    return Response(stored, media_type="application/json")


@router.get("/v1/methods")
def list_methods(_caller: Reader) -> list[MethodOut]:
    """List the unlearning methods that are installed, in the order of preference."""
    return [
        MethodOut(
            name=spec.name,
            version=spec.version,
            guarantee=spec.guarantee,
            by_default=spec.by_default,
            requires=sorted(spec.requires),
            evidence=list(spec.evidence),
            parameters=spec.params.model_json_schema(),
            summary=spec.summary,
            cost=spec.cost,
            refused=spec.refused,
        )
        for spec in METHODS.values()
    ]


@router.get("/v1/recipes")
def list_recipes(_caller: Reader) -> list[RecipeOut]:
    """List the recipes that are installed."""
    return [
        RecipeOut(name=spec.name, version=spec.version, parameters=spec.params.model_json_schema())
        for spec in RECIPES.values()
    ]


@router.post("/v1/lineage/edges", status_code=201)
def add_edge(body: EdgeIn, caller: Engineer, session: SessionDep, once: OnceDep) -> Response:
    """Say that one artifact derives from another (a fine-tune, an embedding index, a cache …)."""

    def create() -> tuple[Any, None]:
        service.add_edge(session, body, utc_now())
        return as_json(body), None

    return once.answer(caller, 201, create)


@router.post("/v1/deployments", status_code=201, response_model=DeploymentOut)
def deploy(body: DeploymentIn, caller: Engineer, session: SessionDep, once: OnceDep) -> Response:
    """Say which model version a deployment serves."""

    def create() -> tuple[Any, None]:
        return as_json(_deployment(session, service.deploy(session, body, utc_now()))), None

    return once.answer(caller, 201, create)


@router.get("/v1/deployments")
def list_deployments(_caller: Reader, session: SessionDep) -> list[DeploymentOut]:
    """List deployments and what they serve."""
    return [_deployment(session, row) for row in repository.deployments(session)]


@router.get("/v1/suppressions")
def list_suppressions(_caller: Reader, session: SessionDep, page: PageDep) -> dict[str, Any]:
    """List subject keys that training must leave out."""
    rows = repository.suppressions(session, page.after, page.limit)
    return page.of(
        [
            as_json(
                SuppressionOut(
                    id=row.id,
                    subject_key=row.subject_key,
                    request=row.request_id,
                    received_at=row.received_at,
                    lifted_at=row.lifted_at,
                )
            )
            for row in rows
        ]
    )


@router.delete("/v1/suppressions/{suppression_id}", status_code=204)
def lift_suppression(suppression_id: UUID, body: LiftIn, _caller: Dpo, session: SessionDep) -> None:
    """Lift a suppression, with a reason."""
    service.lift_suppression(session, suppression_id, body.reason, utc_now())


def _dataset(row: Dataset) -> DatasetOut:
    return DatasetOut(
        name=row.name,
        owner=Column.model_validate(row.owner),
        aliases=[Column.model_validate(one) for one in row.aliases],
        mentions=[Column.model_validate(one) for one in row.mentions],
        created_at=row.created_at,
    )


def _version(name: str, row: DatasetVersion) -> DatasetVersionOut:
    return DatasetVersionOut(
        dataset=name,
        version=row.version,
        uri=row.uri,
        format=row.format,
        state=row.state,
        digest=row.digest,
        record_count=row.record_count,
        skipped_identifiers=row.skipped_identifiers,
    )


def _model(session: SessionDep, row: Model) -> ModelOut:
    versions = repository.model_versions(session, row.id)
    return ModelOut(
        id=row.id,
        name=row.name,
        recipe=row.recipe,
        parameters=row.parameters,
        shards=row.shards,
        slices=row.slices,
        policy=row.policy,
        versions=[service.describe_version(one) for one in versions],
    )


def _deployment(session: SessionDep, row: Deployment) -> DeploymentOut:
    version = session.get_one(ModelVersion, row.model_version_id)
    return DeploymentOut(
        id=row.id,
        name=row.name,
        model=session.get_one(Model, version.model_id).name,
        version=version.version,
        url=row.url,
        history=row.history,
    )
