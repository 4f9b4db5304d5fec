"""The settings: one frozen object, read in composition roots only and handed down."""

from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT_SECRET = "development-only-secret-development-only"  # noqa: S105 refused in production


class Settings(BaseSettings):
    """Everything an operator can set, each as an environment variable `LETHE_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", frozen=True, extra="ignore")

    environment: Literal["development", "production"] = "production"
    var: Path = Path("var")
    """Folder for everything the embedded servers and the local artifact store keep."""

    database_url: SecretStr = SecretStr("postgresql+psycopg://lethe_app@localhost/lethe")
    owner_database_url: SecretStr | None = None
    """The role that migrates; the service itself runs as the lesser role of `database_url`."""
    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    artifacts_url: str = "file://var/artifacts"

    subject_secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """HMAC key of subject keys (32 bytes or more). Losing it loses the inventory."""
    vault_secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    """Wraps the keys of requests and datasets at rest."""
    signing_keys: Path = Path("var/keys")
    """Folder with the Ed25519 keys of log and certificates: never in the database."""
    tree_head_export: Path | None = None
    """Folder where each tree head is written outside the database."""

    log_origin: str = "lethe.local/log"
    controller_country: str = "DE"
    """ISO 3166 code whose public holidays move a deadline (Reg. 1182/71 Art. 3(4))."""
    controller_time_zone: str = "Europe/Berlin"
    default_phone_region: str | None = None
    approval: Literal["dpo", "automatic"] = "dpo"

    membership_margin: float = Field(default=0.15, gt=0, lt=0.5)
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    sparse_share: float = Field(default=0.1, gt=0, lt=1)
    sparse_power: float = Field(default=0.99, gt=0, lt=1)
    utility_drop: float = Field(default=0.02, ge=0, lt=1)

    lease_seconds: float = Field(default=60, gt=0)
    heartbeat_seconds: float = Field(default=15, gt=0)
    step_attempts: int = Field(default=5, ge=1)
    checkpoint_seconds: float = Field(default=60, ge=0)
    """Seconds, at least, between two checkpoints of an approximate method's run."""
    threads: int = Field(default=1, ge=1)
    """Threads of one compute worker; part of the environment digest."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)

    @model_validator(mode="after")
    def _refuse_default_secrets(self) -> Self:
        if self.environment == "production":
            for name in ("subject_secret", "vault_secret"):
                value: SecretStr = getattr(self, name)
                if value.get_secret_value() == DEVELOPMENT_SECRET or len(value) < 32:
                    message = f"LETHE_{name.upper()} must be set to 32 characters or more"
                    raise ValueError(message)
        return self


@cache
def load_settings() -> Settings:
    """Read the settings from the environment, once per process."""
    return Settings()
