"""The kinds of suites. The section that a suite.yaml declares determines its kind; a new kind is one module and one line."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.evaluate.declaration import content
from containers.evaluate.kinds.benchmarks import BenchmarkSuite
from containers.evaluate.kinds.fidelity import FidelitySuite
from containers.evaluate.kinds.humaneval import HumanEvalSuite
from containers.evaluate.kinds.load import LoadSuite
from containers.evaluate.kinds.tool_calling import ToolCallingSuite
from containers.suites import DECLARATION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from containers.evaluate.suite import Suite
    from containers.suites import SuiteFiles

KINDS: Final[Mapping[str, Callable[[SuiteFiles], Suite]]] = {
    "benchmarks": BenchmarkSuite.read,
    "fidelity": FidelitySuite.read,
    "humaneval": HumanEvalSuite.read,
    "load": LoadSuite.read,
    "tool_calling": ToolCallingSuite.read,
}


def load(files: SuiteFiles) -> Suite:
    """The suite that the files declare; raises BadInput for no kind or several, and for what does not fit."""
    declared = content(files)
    sections = [str(section) for section in declared] if isinstance(declared, dict) else []
    found = [kind for kind in KINDS if kind in sections]
    # The kind that a mistyped section means has the better message: it knows its other fields.
    found = found or [kind for kind in KINDS if get_close_matches(kind, sections, 1)]
    if len(found) != 1:
        raise BadInput(
            f"{DECLARATION} of the suite {files.name} declares {' and '.join(found) or 'nothing to measure'}",
            remedy=f"give it exactly one of the sections {', '.join(KINDS)}",
        )
    return KINDS[found[0]](files)
