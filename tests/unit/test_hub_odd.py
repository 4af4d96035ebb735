"""Hubs, mirrors and tokens as they are: ranges that are refused, listings that are missing, variables with a line break."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from containers.download import retries
from containers.download.hub import HubOrigin
from containers.download.partial_file import PartialFile
from containers.download.retries import NoRanges
from containers.download.selection import Remote
from containers.download.transfer import Transfer
from containers.errors import BadInput, Temporary
from containers.settings import StepSettings
from containers.sources import HubSource
from tests.support.hostile import Asked, answer, hostile

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0" * 40
CONTENT = bytes(range(200))
FILE = Remote("config.json", len(CONTENT), git="1" * 40)
TREE = [
    {"type": "file", "path": "config.json", "size": 2, "oid": "1" * 40},
    {"type": "file", "path": "model.safetensors", "size": 130, "oid": "3" * 40, "lfs": {"oid": "a" * 64, "size": 9}},
    {"type": "directory", "path": "onnx", "size": 0, "oid": "4" * 40},
]
SIBLINGS = [
    {"rfilename": "config.json", "size": 2, "blobId": "1" * 40},
    {"rfilename": "model.safetensors", "size": 9, "blobId": "3" * 40, "lfs": {"sha256": "a" * 64, "size": 9}},
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)


def hub(url: str) -> HubOrigin:
    return HubOrigin(HubSource("acme/tiny", COMMIT), StepSettings(hub_endpoint=url), lambda _: None)


def test_a_rest_that_the_hub_refuses_is_fetched_from_the_start(tmp_path: Path) -> None:
    """416 for what an earlier run left; the partial file must not stay, or every later run would end the same way."""
    counted: list[int] = []

    def behave(asked: Asked, send: Any) -> None:
        send(answer(416) if "range" in asked.headers else answer(200, CONTENT))

    with hostile(behave) as server:
        path = tmp_path / "config.json"
        path.write_bytes(b"of an older version")
        with PartialFile(path, FILE.size) as file:
            Transfer(hub(server.url), print, threading.Event()).fetch(FILE, file.parts[0], counted.append)
        assert path.read_bytes() == CONTENT
        assert sum(counted) == len(CONTENT) - len(b"of an older version")
        assert ["range" in one.headers for one in server.asked] == [True, False]


def test_a_part_that_the_hub_refuses_is_had_with_the_whole_file(tmp_path: Path) -> None:
    """A mirror that sends files from their start alone may say so with 416, too."""

    def behave(asked: Asked, send: Any) -> None:
        send(answer(416) if "range" in asked.headers else answer(200, CONTENT))

    with hostile(behave) as server, PartialFile(tmp_path / "config.json", FILE.size, part=150) as file:
        transfer = Transfer(hub(server.url), print, threading.Event())
        with pytest.raises(NoRanges):
            transfer.fetch(FILE, file.parts[1], lambda _: None)
        assert len(server.asked) == 1


def test_a_hub_that_refuses_the_whole_file(tmp_path: Path) -> None:
    with hostile(lambda _, send: send(answer(416))) as server:
        transfer = Transfer(hub(server.url), print, threading.Event())
        with (
            PartialFile(tmp_path / "config.json", FILE.size) as file,
            pytest.raises(BadInput, match="with code 416"),
        ):
            transfer.fetch(FILE, file.parts[0], lambda _: None)
        with pytest.raises(Temporary, match=r"has no bytes of config\.json from 5 on"):
            transfer.read(FILE, 5, 9)


def mirror(described: Any, status: int = 404, **headers: str) -> Any:
    """A mirror without /tree, which describes a model so."""

    def behave(asked: Asked, send: Any) -> None:
        if "/tree/" in asked.path:
            send(answer(status, b"Not Found", **headers))
        elif "/revision/" in asked.path:
            send(answer(body=json.dumps(described).encode()))
        else:
            send(answer(200))

    return behave


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_mirror_without_the_tree_is_asked_for_the_description(status: int) -> None:
    """The files are the same by both ways, so a checkpoint's name does not depend on the mirror."""
    with hostile(mirror({"siblings": SIBLINGS}, status)) as server:
        found = hub(server.url).files(COMMIT)
    with hostile(lambda _, send: send(answer(body=json.dumps(TREE).encode()))) as server:
        assert hub(server.url).files(COMMIT) == found


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"siblings": [{"rfilename": "config.json"}]}, "describes a model without the sizes of its files"),
        ({}, "does not answer as a Hugging Face hub does"),
        ([], "does not answer as a Hugging Face hub does"),
        ({"siblings": [{"size": 2, "blobId": "1" * 40}]}, "does not answer as a Hugging Face hub does"),
        ({"siblings": [{"rfilename": "a", "size": -1, "blobId": "1" * 40}]}, "does not answer as a Hugging Face hub does"),
        ({"siblings": [{"rfilename": "a", "size": 1, "lfs": {"sha256": "x", "size": 1}}]}, "not a sha256"),
    ],
)  # fmt: skip
def test_what_a_mirror_lacks_is_said(described: Any, says: str) -> None:
    with hostile(mirror(described)) as server, pytest.raises(BadInput, match=says):
        hub(server.url).files(COMMIT)


def test_a_hub_that_says_why_is_believed() -> None:
    """A repository or revision that is not there is no lack of a listing."""
    with hostile(mirror({"siblings": SIBLINGS}, X_Error_Code="RepoNotFound")) as server:
        with pytest.raises(BadInput, match="there is no model acme/tiny"):
            hub(server.url).files(COMMIT)
        assert not any("/revision/" in one.path for one in server.asked)


@pytest.mark.parametrize("given", ["hf_canary\n", "hf_canary\r\n", "  hf_canary ", "\thf_canary\n\n"])
def test_a_token_with_a_line_break(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `$(cat token; echo)` or a mounted file has it."""
    monkeypatch.setenv("HF_TOKEN", given)

    def settings(url: str) -> StepSettings:
        return StepSettings(hub_endpoint=url)

    with hostile(lambda _, send: send(answer(body=json.dumps({"sha": COMMIT}).encode()))) as server:
        origin = HubOrigin(HubSource("acme/tiny", COMMIT), settings(server.url), lambda _: None)
        assert origin.commit() == COMMIT
        assert server.asked[0].headers["authorization"] == "Bearer hf_canary"


@pytest.mark.parametrize("given", ["", " ", "\n"])
def test_an_empty_secret_is_none(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", given)
    monkeypatch.setenv("CARWRIGHT_REGISTRY__PASSWORD", given)
    monkeypatch.setenv("CARWRIGHT_STORE__SECRET_ACCESS_KEY", given)
    settings = StepSettings()
    assert (settings.hub_token, settings.registry.password, settings.store.secret_access_key) == (None, None, None)


@pytest.mark.parametrize("given", ["hf_canary hf_canary", "hf_canary\x00", "hf_canary\u00e9", "hf_\ncanary"])
def test_a_token_that_fits_in_no_header_is_not_repeated(given: str) -> None:
    with pytest.raises(BadInput, match="hub_token: Value error, holds blanks") as caught:
        StepSettings(hub_token=given)  # type: ignore[arg-type] # as a variable gives it
    assert "canary" not in str(caught.value)


def test_other_secrets_keep_their_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password may begin or end with one; a line break is the file's."""
    monkeypatch.setenv("CARWRIGHT_REGISTRY__PASSWORD", " pass word \n")
    password = StepSettings().registry.password
    assert password is not None
    assert password.get_secret_value() == " pass word "
