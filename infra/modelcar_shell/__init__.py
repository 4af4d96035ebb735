"""Compiles the program of the base "minimal" (containers/oci/minimal/sh.zig) to the bytes that lie in the repository.

    python -m infra.modelcar_shell

The compiler is the locked ziglang of PyPI, which needs no other compiler, linker or library and makes the programs of all
architectures on any of them. Nothing about the machine, the folder or the time is in what it writes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.oci import minimal
from containers.process import ProcessFailed, inherited, run
from infra.environments.environment import ensure

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.events import Event
    from infra.settings import Settings

LOCK: Final = Path(__file__).with_name("requirements.lock")
SOURCE: Final = Path(minimal.__file__).with_name("sh.zig")
_TARGETS: Final = {"amd64": "x86_64-linux", "arm64": "aarch64-linux"}
_OPTIONS: Final = (
    "-mcpu=baseline",  # of the architecture, not of this machine
    "-OReleaseSafe",  # with checks of bounds
    "-fstrip",  # debug information names folders
    "-fsingle-threaded",
    "-fno-unwind-tables",
)
_TIMEOUT: Final = 600  # seconds; it takes 4


def compiler(settings: Settings, on_event: Callable[[Event], None]) -> Path:
    """The Python of an environment that has the locked ziglang; raises what `ensure` raises."""
    return ensure("modelcar-shell", LOCK, settings.cache, on_event=on_event).python


def compile_shell(python: Path, architecture: str, source: Path = SOURCE) -> bytes:
    """The program for an architecture of `minimal.SHELLS`. Raises BadInput, with the compiler's words, for wrong source."""
    with tempfile.TemporaryDirectory(prefix="carwright-zig-") as scratch:
        program = Path(scratch, "sh")
        caches = ["--cache-dir", f"{scratch}/local", "--global-cache-dir", f"{scratch}/global"]
        argv = [str(python), "-I", "-m", "ziglang", "build-exe", str(source), "-target", _TARGETS[architecture]]
        try:
            run(
                [*argv, *_OPTIONS, f"-femit-bin={program}", *caches],
                env=inherited(),
                timeout=_TIMEOUT,
                cwd=Path(scratch),
            )
        except ProcessFailed as error:
            raise BadInput(f"{source} cannot be compiled:\n{error.output.strip()}") from error
        return program.read_bytes()
