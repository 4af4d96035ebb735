"""The tree that we compute is the one that an engine mounts."""

from __future__ import annotations

import io
import secrets
import subprocess
import tarfile
from typing import TYPE_CHECKING

import docker
import pytest

from containers.oci.access import open_repository, tag
from containers.oci.mounted import tree_of
from containers.oci.repository import image as image_of
from infra.settings import Settings
from tests.support.attacks import entry, image, model, tar, tools

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

# What an engine adds to a container's root.
_ENGINE: tuple[str, ...] = (
    ".dockerenv",
    "dev",
    "proc",
    "sys",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/mtab",
)
_FOLDER, _LINK, _HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def _image(folder: Path) -> str:
    """Overrides, whiteouts, opaque folders, links and hard links, all of them outside /models."""
    return image(
        folder,
        tools(),
        tar(
            entry("etc/", _FOLDER), entry("etc/a", content=b"one"), entry("etc/gone"), entry("opt/", _FOLDER),
            entry("opt/old/", _FOLDER), entry("opt/old/x"), entry("srv/", _FOLDER), entry("srv/deep/", _FOLDER),
            entry("srv/deep/x"), entry("was-file"), entry("was-folder/", _FOLDER), entry("was-folder/x"),
            entry("was-link", _LINK, "etc"),
        ),
        model(),
        tar(
            entry("etc/", _FOLDER), entry("etc/a", content=b"three"), entry("etc/.wh.gone"), entry("opt/", _FOLDER),
            entry("opt/new"), entry("opt/.wh..wh..opq"), entry(".wh.srv"), entry("was-file/", _FOLDER),
            entry("was-file/y"), entry("was-folder", content=b"now a file"), entry("was-link/", _FOLDER),
            entry("was-link/z"), entry("opt/hard", _HARD, "etc/a"),
        ),
        tar(entry("srv/", _FOLDER), entry("srv/again", content=b"four!"), entry("opt/link", _LINK, "../srv/again")),
    )  # fmt: skip


def _ours(reference: str) -> dict[str, tuple[str, int | str]]:
    with open_repository(reference, Settings()) as repository:
        tree = tree_of(repository, image_of(repository, repository.reference.what)[1])
    assert not tree.faults
    return {
        path: (node.kind, node.target if node.kind == "link" else node.size)
        for path, node in tree.nodes.items()
        if path and not path.startswith(_ENGINE)
    }


def test_docker_mounts_the_same(tmp_path: Path) -> None:
    """The daemon's overlay, as it exports a container made of the image."""
    reference = _image(tmp_path / "car")
    name = f"carwright-test-tree-{secrets.token_hex(4)}"
    tag(reference, "x", Settings())
    _run("skopeo", "copy", "--insecure-policy", f"oci:{tmp_path}/car:x", f"docker-daemon:{name}:x")
    api = docker.APIClient(version="auto")
    container = api.create_container(f"{name}:x", command=["sleep"])
    try:
        exported = io.BytesIO(b"".join(api.export(container["Id"])))
    finally:
        api.remove_container(container["Id"])
        api.remove_image(f"{name}:x")
    found: dict[str, tuple[str, int | str]] = {}
    with tarfile.open(fileobj=exported) as whole:
        for member in whole:
            path = member.name.rstrip("/")
            if member.islnk():
                found[path] = found[member.linkname]
            elif path not in ("", ".") and not path.startswith(_ENGINE):
                kind = "folder" if member.isdir() else "link" if member.issym() else "file"
                found[path] = (kind, member.linkname if member.issym() else member.size)
    assert found == _ours(reference)


def test_umoci_unpacks_the_same(tmp_path: Path) -> None:
    """A second engine, which writes layers over each other in one folder instead of mounting them."""
    reference = _image(tmp_path / "car")
    tag(reference, "x", Settings())
    _run("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/car:x", f"{tmp_path}/bundle")
    root = tmp_path / "bundle/rootfs"
    found: dict[str, tuple[str, int | str]] = {}
    for path in root.rglob("*"):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        size = str(path.readlink()) if kind == "link" else path.stat().st_size if kind == "file" else 0
        found[str(path.relative_to(root))] = (kind, size)
    assert found == _ours(reference)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)
