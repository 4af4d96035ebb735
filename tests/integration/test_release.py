"""What `make release` checks, on this checkout's own wheel and on ones that must not go out."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from infra.release import build, check_changelog, check_metadata, check_rebuild

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


def test_the_wheel_is_carwrights_and_the_sdist_builds_it_again(root: Path, tmp_path: Path) -> None:
    wheel, sdist = build(root, tmp_path / "dist")
    metadata = check_metadata(wheel)
    assert metadata.name == "carwright"
    check_changelog(str(metadata.version), root / "CHANGELOG.md")
    check_rebuild(wheel, sdist, tmp_path)


def test_a_wheel_that_the_sdist_does_not_build_is_refused_by_what_differs(root: Path, tmp_path: Path) -> None:
    wheel, sdist = build(root, tmp_path / "dist")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("flows/only_here.py", "")
    with pytest.raises(BadInput, match=r"flows/only_here\.py"):
        check_rebuild(wheel, sdist, tmp_path)


@pytest.mark.parametrize("field", ["Version: one", "License-Expression: none of your business"])
def test_metadata_that_an_index_would_refuse_are_refused(tmp_path: Path, field: str) -> None:
    wheel = tmp_path / "one-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("one-1.dist-info/METADATA", f"Metadata-Version: 2.4\nName: one\nVersion: 1\n{field}\n")
    with pytest.raises(BadInput, match=wheel.name):
        check_metadata(wheel)


def test_a_version_without_its_section_of_the_change_log_is_refused(tmp_path: Path) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changes\n\n## Unreleased\n\n## 1.0.0 (2026-01-01)\n")
    check_changelog("1.0.0", changelog)
    with pytest.raises(BadInput, match=r"no section for version 1\.0"):
        check_changelog("1.0", changelog)
