"""The local settings: under production's rules, with secrets of their own."""

from pathlib import Path

from app.core.config import Settings
from app.supervisor.environment import development_environment


def test_secrets_are_drawn_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    first = development_environment(tmp_path / "var")
    keys = tmp_path / "var" / "keys"
    assert development_environment(tmp_path / "var") == first
    assert keys.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in keys.iterdir()] == ["secrets.json"]
    assert (keys / "secrets.json").stat().st_mode & 0o777 == 0o600
    other = development_environment(tmp_path / "other")
    assert first["LETHE_SUBJECT_SECRET"] != other["LETHE_SUBJECT_SECRET"]
    assert first["LETHE_SUBJECT_SECRET"] != first["LETHE_VAULT_SECRET"]


def test_the_settings_hold_in_production_and_every_path_is_full(tmp_path: Path) -> None:
    environment = development_environment(tmp_path / "var")
    settings = Settings.model_validate(
        {name.removeprefix("LETHE_").lower(): value for name, value in environment.items()}
    )
    assert settings.environment == "production"
    assert settings.signing_keys == tmp_path / "var" / "keys"
    assert settings.artifacts_url == f"file://{tmp_path}/var/artifacts"
    assert settings.subject_secret.get_secret_value() == environment["LETHE_SUBJECT_SECRET"]
