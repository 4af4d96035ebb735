"""Where settings come from: several places, strict about names and silent about secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from containers.contract import Step, StepRequest
from containers.errors import BadInput
from containers.settings import StepSettings, StoreSettings
from containers.step_variables import step_variables
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_need_nothing() -> None:
    settings = Settings()
    assert settings.store.bucket == "carwright"
    assert settings.hub_token is None


def test_the_first_source_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, then environment, then carwright.toml."""
    (tmp_path / "carwright.toml").write_text(
        'home = "/toml"\ncache = "/toml"\nlog_format = "text"\n[store]\nbucket = "toml"\nprefix = "toml"\n'
    )
    monkeypatch.setenv("CARWRIGHT_CACHE", "/environment")
    monkeypatch.setenv("CARWRIGHT_STORE__BUCKET", "environment")
    monkeypatch.setenv("CARWRIGHT_LOG_FORMAT", "json")
    settings = Settings(log_format="auto")
    assert str(settings.home) == "/toml"
    assert str(settings.cache) == "/environment"
    assert (settings.store.bucket, settings.store.prefix) == ("environment", "toml")
    assert settings.log_format == "auto"


@pytest.mark.parametrize("name", ["CARWRIGHT_HUB_TOKEN", "HF_TOKEN"])
def test_the_hub_token_has_two_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hf_secret")
    token = Settings().hub_token
    assert token is not None
    assert token.get_secret_value() == "hf_secret"


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARWRIGHT_HUB_TOKEN", "hf_secret")
    monkeypatch.setenv("CARWRIGHT_STORE__SECRET_ACCESS_KEY", "s3_secret")
    monkeypatch.setenv("CARWRIGHT_PIP_EXTRA_INDEX_URL", "http://user:pip_secret@localhost/")
    settings = Settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert [one for one in ("hf_secret", "s3_secret", "pip_secret") if one in shown] == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('hoem = "/x"\n', "hoem"),
        ('[store]\nbuckit = "x"\n', "store.buckit"),
        ("[serve]\nport = 70000\n", "serve.port"),
        ('log_format = "xml"\n', "log_format"),
        ("home = \n", "carwright.toml"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(tmp_path: Path, text: str, named: str) -> None:
    """A misspelt name is refused: it would otherwise be a setting that silently does nothing."""
    (tmp_path / "carwright.toml").write_text(text)
    with pytest.raises(BadInput, match=named):
        Settings()


def test_a_bad_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a secret that went into the wrong variable."""
    monkeypatch.setenv("CARWRIGHT_SERVE__PORT", "hf_secret")
    with pytest.raises(BadInput, match=r"serve\.port") as caught:
        Settings()
    assert "hf_secret" not in str(caught.value)


def test_a_secret_is_a_file_named_like_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested ones, too; the environment goes first, and what others put there is passed over."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "CARWRIGHT_STORE__SECRET_ACCESS_KEY").write_text("from the file\n")
    (secrets / "CARWRIGHT_HUB_TOKEN").write_text("from-the-file")
    (secrets / "somebody-elses").write_text("x")
    monkeypatch.setenv("CARWRIGHT_STORE__BUCKET", "b")
    monkeypatch.setenv("CARWRIGHT_HUB_TOKEN", "from-the-environment")
    settings = Settings(_secrets_dir=secrets)
    assert settings.store.bucket == "b"
    assert settings.store.secret_access_key
    assert settings.store.secret_access_key.get_secret_value() == "from the file"
    assert settings.hub_token
    assert settings.hub_token.get_secret_value() == "from-the-environment"


@pytest.mark.parametrize("reference", ["", "oci:/images/m@sha256:" + "a" * 64])
@pytest.mark.parametrize("step", list(Step))
def test_a_store_that_is_a_folder_here_is_used_without_keys(step: Step, reference: str, tmp_path: Path) -> None:
    """Also by a server of a modelcar, which looks there for the files of its layers."""
    settings = StepSettings(
        store=StoreSettings(
            endpoint="http://127.0.0.1:9", access_key_id=SecretStr("id"), secret_access_key=SecretStr("key"),
            folder=tmp_path, direct=True,
        )
    )  # fmt: skip
    request = StepRequest(step=step, run="r", parameters={"reference": reference}, options={"stage": "fetch"})
    plain, secret = step_variables(settings, request)
    assert secret == {}
    assert (plain["CARWRIGHT_STORE__FOLDER"], plain["CARWRIGHT_STORE__DIRECT"]) == (str(tmp_path), "True")
