"""The support bundle: what a helper needs is in it, and no secret in any spelling."""

from __future__ import annotations

import base64
import json
import zipfile
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from containers.errors import BadInput
from flows.cli.main import app
from infra.doctor.bundle import write
from infra.doctor.line import ok
from infra.settings import Settings
from tests.support.canaries import CANARIES

if TYPE_CHECKING:
    from pathlib import Path

LOGIN = "carwright:canary/login+of=prefect"
SECRETS = {
    **{name: value for name, value in CANARIES.items() if name.endswith(("TOKEN", "PASSWORD", "KEY", "KEY_ID"))},
    "CARWRIGHT_NOTIFY_WEBHOOK": 'http://127.0.0.1:9/canary "quoted"/x',
    "AWS_SECRET_ACCESS_KEY": "canary/aws+key",
    "PREFECT_API_AUTH_STRING": "ann:canary-auth",
}


def spellings(secret: str) -> set[str]:
    """As logs and requests may hold it: in JSON, in JSON in JSON, in URLs, in HTTP's Basic scheme and in a login file."""
    once = json.dumps(secret)[1:-1]
    basic = base64.b64encode(f"somebody:{secret}".encode()).decode()
    return {
        secret,
        once,
        json.dumps(once)[1:-1],
        quote(secret),
        quote(secret, safe=""),
        f"Basic {basic}",
        f'"auth": "{basic}"',
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs whose logs hold every secret in every spelling."""
    for name, value in {**CANARIES, **SECRETS}.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / ".carwright"
    said = "\n".join(f"line {one}" for secret in [*SECRETS.values(), LOGIN] for one in sorted(spellings(secret)))
    for number in range(5):
        run = home / "runs" / f"2026010{number}T000000"
        (run / "quantize-x").mkdir(parents=True)
        (run / "summary.json").write_text(json.dumps({"state": "failed: as told", "said": said}))
        (run / "quantize-x" / "log.jsonl").write_text(f"{said}\nthe end\n")
        (run / "model.safetensors").write_bytes(b"weights")
    (home / "logs").mkdir()
    (home / "logs" / "prefect.log").write_text("x" * (2 << 20) + said + "https://u:canary-in-a-url@host/x\n")
    (home / "prefect").mkdir()
    (home / "prefect" / "login").write_text(LOGIN + "\n")
    (home / "logs" / "link.log").symlink_to("/etc/hostname")
    return home


def texts(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as bundle:
        return {name: bundle.read(name).decode() for name in bundle.namelist()}


def check(found: dict[str, str]) -> None:
    whole = "\n".join(found.values())
    assert "canary" not in whole, whole[whole.index("canary") - 80 :][:160]
    for secret in [*SECRETS.values(), LOGIN]:
        for one in spellings(secret):
            assert one not in whole
        basic = base64.b64encode(f"somebody:{secret}".encode()).decode()
        assert basic[16:-4] not in whole


def test_no_secret_is_in_it(home: Path, tmp_path: Path) -> None:
    names = write(tmp_path / "bundle.zip", home, {"doctor.json": "[]"}, SECRETS.values())
    found = texts(tmp_path / "bundle.zip")
    check(found)
    assert tuple(found) == names
    assert {name.split("/")[1] for name in names if name.startswith("runs/")} == {
        "20260102T000000",
        "20260103T000000",
        "20260104T000000",
    }
    assert found["runs/20260104T000000/quantize-x/log.jsonl"].endswith("the end\n")
    assert '"state": "failed: as told"' in found["runs/20260104T000000/summary.json"]
    assert len(found["logs/prefect.log"]) <= 1 << 20
    assert not [name for name in names if name.endswith((".safetensors", "login", "link.log"))]
    assert any(one.startswith("prefect ") for one in json.loads(found["versions.json"])["packages"])
    assert (tmp_path / "bundle.zip").stat().st_mode & 0o077 == 0


def test_what_a_key_service_is_asked_with_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it in the setting, by the line, or in the variables that its client reads."""
    monkeypatch.setenv("VAULT_TOKEN", "canary-of-vault")
    said = "denied to canary-of-vault and canary-of-aws"
    write(tmp_path / "bundle.zip", tmp_path, {"x.txt": said}, ["AWS_REGION=eu\nAWS_SECRET_ACCESS_KEY=canary-of-aws"])
    assert texts(tmp_path / "bundle.zip")["x.txt"] == "denied to *** and ***"


def test_nothing_is_overwritten(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").write_text("mine")
    for path in (tmp_path / "bundle.zip", tmp_path / "nowhere" / "bundle.zip"):
        with pytest.raises(BadInput, match="cannot be written"):
            write(path, home, {}, ())
    assert (tmp_path / "bundle.zip").read_text() == "mine"


def test_the_command_writes_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the report and the settings, whatever the report says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("infra.doctor.examine", lambda *_, **__: iter((ok("python", "3.11"),)))
    done = CliRunner().invoke(app, ["doctor", "--bundle", "out.zip"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = texts(tmp_path / "out.zip")
    check(found)
    assert json.loads(found["doctor.json"])[0]["name"] == "python"
    settings = json.loads(found["settings.json"])
    assert settings["registry"]["host"] == "registry.example.com"
    assert settings.keys() == Settings().model_dump().keys()
