"""What needs no server is told before one is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from containers.errors import BadInput
from containers.quantize.schemes import SCHEMES
from containers.scheme_names import NAMES
from flows.local.early_checks import check_request
from flows.local.ship import ship
from flows.ship_request import ShipRequest
from infra.settings import Settings
from tests.support.modelcars import write_checkpoint
from tests.unit.test_leftovers import POINTER

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "hf://a/b"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"model": "file:///nonexistent"}, "there is no folder /nonexistent"),
    "no source": ({"model": "acme/tiny"}, "not a source: 'acme/tiny'"),
    "no name": ({"model": "hf://tiny"}, "not the name of a model on the hub"),
    "no bucket": ({"model": "s3://A_B/x"}, "not the name of an S3 bucket"),
    "scheme": ({"scheme": "FP7"}, "scheme 'FP7': not supported"),
    "scheme in small letters": ({"scheme": "fp8_dynamic"}, "write it as FP8_DYNAMIC"),
    "suite": ({"suite": "smok"}, "did you mean smoke"),
    "target": ({"to": "registry:port/x"}, "is not a host name with an optional port"),
    "endpoint": ({"baseline_endpoint": "localhost:8000"}, "not an endpoint"),
    "other endpoint": ({"candidate_endpoint": "ftp://x/v1"}, "not an endpoint"),
}


@pytest.mark.parametrize(("given", "says"), WRONG.values(), ids=WRONG)
def test_nothing_is_started_for_what_no_run_could_use(
    given: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the store nor Prefect's server nor an environment: the folder of the runs is not even made."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    with pytest.raises(BadInput, match=says):
        ship(ShipRequest.model_validate({"model": MODEL, **given}), settings, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("launcher", ["docker", "kubernetes"])
def test_keys_that_no_container_would_find_are_told_before_anything_is_started(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        home=tmp_path / "home", cache=tmp_path / "cache", launcher=launcher, sign={"folder": tmp_path / "keys"}
    )
    with pytest.raises(BadInput, match=r"keys, is of this machine, and promotion runs in a container"):
        ship(ShipRequest(model=MODEL, to="registry.example.com/tiny"), settings, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_looked_into(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    request = ShipRequest(model=f"file://{checkpoint}")
    check_request(request)
    shard = checkpoint / "model-00001-of-00002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(POINTER)
    with pytest.raises(BadInput, match="is a git-LFS pointer"):
        check_request(request)
    shard.write_bytes(content)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json is not JSON"):
        check_request(request)
    (checkpoint / "config.json").unlink()
    with pytest.raises(BadInput, match=r"has no config\.json"):
        check_request(request)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no safetensors files"):
        check_request(ShipRequest(model=f"file://{tmp_path}"))


def test_what_only_servers_know_is_left_to_the_run() -> None:
    for given in ({"model": MODEL}, {"model": ""}, {"model": "s3://bucket/x"}, {"model": MODEL, "to": "quay.io/a/b"}):
        check_request(ShipRequest.model_validate(given))


def test_the_names_of_schemes_are_those_that_are_served() -> None:
    assert tuple(SCHEMES) == NAMES
