"""The sandbox for code that a model wrote: asked of the step that uses it, as a program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import containers
from containers.errors import Error
from containers.process import inherited, run
from infra.doctor.line import Line, ok, skipped, wrong

if TYPE_CHECKING:
    from infra.settings import Settings

_ROOT: Final = Path(containers.__file__).parents[1]
_TIMEOUT: Final = 60.0  # seconds; the sandbox has limits of its own
_NEEDS: Final = "only suites that run generated code need it (humaneval, humaneval-plus)"


def sandbox(settings: Settings) -> Line:
    """Whether a sandbox works here; a problem only if the settings name a certain one."""
    if settings.launcher != "process":
        return skipped("sandbox", f"the image of the step has its own (launcher {settings.launcher})")
    argv = [sys.executable, "-m", "containers.evaluate.sandbox", settings.evaluate.sandbox]
    try:
        done = run(argv, env=inherited() | {"PYTHONPATH": str(_ROOT)}, timeout=_TIMEOUT, check=False)
    except Error as error:
        return wrong("sandbox", error.message, _NEEDS, asked_for=False)
    if done.code == 0:
        return ok("sandbox", f"generated code runs {done.stdout.strip()}")
    text, _, remedy = (done.stderr.strip() or f"ended with code {done.code}").partition("\n")
    return wrong(
        "sandbox", text, f"{remedy or 'report this bug'}; {_NEEDS}", asked_for=settings.evaluate.sandbox != "auto"
    )
