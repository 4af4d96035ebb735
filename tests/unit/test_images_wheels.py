"""The wheelhouse takes what was locked and nothing else; differences and budgets are put in words."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from containers.errors import BadInput
from infra.environments.pip_indexes import PipIndexes
from infra.images import debian
from infra.images.debian import Deb
from infra.images.image_builder import budget, over_budget
from infra.images.local_engine import add_health, healthcheck
from infra.images.locked import Package, read_packages
from infra.images.verify import differing
from infra.images.wheels import Wheelhouse, link
from tests.support.package_index import pin, serving, wheel

if TYPE_CHECKING:
    from pathlib import Path


def package(name: str, version: str, content: bytes) -> Package:
    return Package(name, version, frozenset({hashlib.sha256(content).hexdigest()}), f"{name}=={version}\n")


def test_files_are_found_by_name_version_and_hash(tmp_path: Path) -> None:
    (tmp_path / "Some_Thing-1.0-py3-none-any.whl").write_bytes(b"wheel")
    (tmp_path / "source-2025.9.1.tar.gz").write_bytes(b"sdist")
    (tmp_path / "unrelated.txt").write_bytes(b"")
    wanted = [
        package("some-thing", "1.0", b"wheel"),
        package("source", "2025.09.01", b"sdist"),
        package("absent", "3", b""),
    ]
    house = Wheelhouse(tmp_path)
    assert {one.name: path.name for one, path in house.files(wanted).items()} == {
        "some-thing": "Some_Thing-1.0-py3-none-any.whl",
        "source": "source-2025.9.1.tar.gz",
    }
    assert [one.name for one in house.missing(wanted)] == ["absent"]


def test_a_wheel_that_does_not_match_its_hash_is_refused(tmp_path: Path) -> None:
    """Also when it was right at the first look."""
    path = tmp_path / "thing-1-py3-none-any.whl"
    path.write_bytes(b"wheel")
    house, wanted = Wheelhouse(tmp_path), [package("thing", "1", b"wheel")]
    assert house.missing(wanted) == []
    path.write_bytes(b"another")
    with pytest.raises(BadInput, match="is not the file of thing 1 that is locked") as refused:
        house.files(wanted)
    assert "carwright images fetch" in refused.value.remedy


def test_a_local_build_is_fetched_from_pytorchs_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is held to its hash there; what the configured index has is not looked for on PyTorch's."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    pins = [pin(wheel(tmp_path / "general")), pin(wheel(tmp_path / "pytorch", "torch", "2.0+cpu"))]
    packages = read_packages("".join(pins))
    with serving(tmp_path / "general") as general, serving(tmp_path / "pytorch") as pytorch:
        monkeypatch.setenv("PIP_INDEX_URL", general.url)
        house = Wheelhouse(tmp_path / "wheels")
        assert house.fetch("quantize", packages, lambda _: None, PipIndexes(pytorch=SecretStr(pytorch.url))) == 2
    assert house.missing(packages) == []
    assert pytorch.projects == {"torch"}


def test_two_versions_of_a_package_are_fetched_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image gets one setuptools and is built with another; pip alone refuses such a list."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    pins = [pin(wheel(tmp_path / "general", version=version)) for version in ("1.0", "2.0")]
    packages = read_packages("".join([*pins, pin(wheel(tmp_path / "general", "other"))]))
    with serving(tmp_path / "general") as general:
        monkeypatch.setenv("PIP_INDEX_URL", general.url)
        house = Wheelhouse(tmp_path / "wheels")
        assert house.fetch("quantize", packages, lambda _: None) == 3
    assert house.missing(packages) == []


def test_an_empty_wheelhouse_lacks_everything(tmp_path: Path) -> None:
    assert len(Wheelhouse(tmp_path / "none").missing([package("thing", "1", b"")])) == 1


def test_a_debian_package_is_named_by_its_hash(tmp_path: Path) -> None:
    deb = Deb("dash", "0.5", hashlib.sha256(b"deb").hexdigest())
    assert debian.missing([deb], tmp_path) == [deb]
    debian.path_of(deb, tmp_path).write_bytes(b"deb")
    assert debian.missing([deb], tmp_path) == []
    debian.path_of(deb, tmp_path).write_bytes(b"other")
    with pytest.raises(BadInput, match="is not the locked package"):
        debian.missing([deb], tmp_path)


def test_files_are_linked_and_may_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    link([tmp_path / "a"], tmp_path / "x")
    link([tmp_path / "a"], tmp_path / "x", "b")
    assert [path.read_text() for path in sorted((tmp_path / "x").iterdir())] == ["a", "a"]
    assert (tmp_path / "x" / "b").samefile(tmp_path / "a")


def test_what_differs_is_said_file_by_file() -> None:
    first = {"a": "644", "b": "644", "c": "1"}
    assert differing(first, dict(first)) == []
    assert differing(first, {"a": "644", "b": "600", "d": "1"}) == [
        "c: only in the first",
        "d: only in the second",
        "b: 644 and 600",
    ]
    assert differing(first, {"b": "644", "a": "644", "c": "1"}) == ["the order of the files"]


def test_the_health_check_that_oci_has_no_room_for_is_kept() -> None:
    """Docker's names and nanoseconds (Engine API, HealthConfig), from what buildah writes into the history."""
    made = 'HEALTHCHECK --interval=5s --timeout=4s --start-period=10m CMD ["python", "x.py"]'
    history = [{"created_by": "/bin/sh -c #(nop) COPY a in b"}, {"created_by": f"/bin/sh -c #(nop) {made}"}]
    assert healthcheck({"history": history}) == {
        "Test": ["CMD", "python", "x.py"],
        "Interval": 5_000_000_000,
        "Timeout": 4_000_000_000,
        "StartPeriod": 600_000_000_000,
    }
    assert healthcheck({"history": history[:1]}) == {}


def test_a_health_check_is_put_behind_the_image(tmp_path: Path) -> None:
    config = {"config": {}, "history": [{"created_by": '#(nop) HEALTHCHECK CMD ["true"]'}]}
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        for name, value in (("a.json", config), ("manifest.json", [{"Config": "a.json", "Layers": []}])):
            member = tarfile.TarInfo(name)
            member.size = len(json.dumps(value))
            archive.addfile(member, io.BytesIO(json.dumps(value).encode()))
    add_health(tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (manifest,) = json.loads((tmp_path / "unpacked/manifest.json").read_text())
    content = (tmp_path / "unpacked" / manifest["Config"]).read_bytes()
    assert manifest["Config"] == f"{hashlib.sha256(content).hexdigest()}.json"
    assert json.loads(content)["config"] == {"Healthcheck": {"Test": ["CMD", "true"]}}


def test_an_image_may_not_grow_by_accident() -> None:
    limits = {"flow": 450_000_000, "push": 300_000_000}
    assert over_budget({"flow": 450_000_000}, limits) == []
    assert over_budget({"flow": 451_000_000, "push": 1, "new": 5}, limits) == [
        "flow has 451 MB, and its budget is 450 MB",
        "new has no budget",
    ]


def test_the_budget_keeps_what_was_promised() -> None:
    """Flow under 450 MB, push and download under 300 MB."""
    limits = budget()
    assert limits["flow"] <= 450_000_000
    assert max(limits["push"], limits["download"]) <= 300_000_000
