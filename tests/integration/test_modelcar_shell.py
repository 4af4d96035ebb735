"""The program of the base "minimal" is what its source compiles to, wherever that is done."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from containers.oci import minimal
from infra.modelcar_shell import SOURCE, compile_shell, compiler
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

# The compiler has 100 MB, and 400 MB unpacked.
pytestmark = [pytest.mark.integration, pytest.mark.campaign]


@pytest.fixture(scope="module")
def zig() -> Path:
    return compiler(Settings(), lambda _: None)


@pytest.mark.parametrize("architecture", minimal.SHELLS)
def test_the_source_compiles_to_the_program_in_the_repository(zig: Path, architecture: str, tmp_path: Path) -> None:
    """In the checkout and in another folder, with other caches: the same bytes each time."""
    folder = tmp_path / "another folder, ü"
    folder.mkdir()
    copy = shutil.copy(SOURCE, folder / "sh.zig")
    assert compile_shell(zig, architecture, SOURCE) == minimal.shell(architecture)
    assert compile_shell(zig, architecture, copy) == minimal.shell(architecture)


def test_source_that_is_wrong_is_said_to_be(zig: Path, tmp_path: Path) -> None:
    (tmp_path / "sh.zig").write_text("pub fn main() void {\n    unknown();\n}\n")
    with pytest.raises(BadInput, match=r"(?s)sh\.zig cannot be compiled:.*unknown"):
        compile_shell(zig, "amd64", tmp_path / "sh.zig")
