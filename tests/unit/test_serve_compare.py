"""The serve step beside a server that runs: its files once more, and nothing else."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import pytest

from containers.contract import Step, StepRequest
from containers.digest import Digest
from containers.errors import NotTrusted
from containers.events import Reporter
from containers.parameters import ServeOptions, ServeParameters
from containers.serve.__main__ import work
from containers.settings import StepSettings
from containers.step import Context
from containers.step_variables import step_variables
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = Digest("1" * 64)
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = StepSettings(home=tmp_path / "home")
    return Context(settings, Reporter(StringIO(), structured=True), tmp_path / "scratch", tmp_path / "result.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As the server of the reference has it under the home folder."""
    folder = tmp_path / "home" / "serving" / DIGEST.short
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def request(folder: str = "") -> StepRequest:
    files = {name: Digest.of(content) for name, content in FILES.items()}
    return StepRequest(
        step=Step.SERVE,
        run="r",
        parameters=ServeParameters(reference=f"r.example.com/m@{DIGEST}", served_model_name="m").dump(),
        options=ServeOptions(stage="compare", policy="{}", files=files, folder=folder).dump(),
    )


def test_files_that_are_as_they_were_signed(context: Context, model: Path, tmp_path: Path) -> None:
    """Where the server has unpacked them, and where the container engine mounts them."""
    assert "compare" in work(request(), context).timings
    model.rename(tmp_path / "mounted")
    assert "compare" in work(request(str(tmp_path / "mounted")), context).timings


@pytest.mark.parametrize("what", ["changed", "removed", "added"])
def test_files_that_are_not(context: Context, model: Path, what: str) -> None:
    if what == "changed":
        (model / "model.safetensors").write_bytes(b"weightz")
    elif what == "removed":
        (model / "model.safetensors").unlink()
    else:
        (model / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(NotTrusted, match="tokenizer" if what == "added" else "model.safetensors"):
        work(request(), context)


def test_it_needs_no_secret() -> None:
    store = {"access_key_id": "i", "secret_access_key": "s"}
    settings = Settings(store=store, registry={"host": "r.example.com", "username": "u", "password": "p"})
    assert step_variables(settings, request())[1] == {}
