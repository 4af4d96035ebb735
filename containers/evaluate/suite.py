"""The interface of suites. Their kinds are in `containers.evaluate.kinds`, one module each."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from containers.contract import Frozen
from containers.errors import BadInput
from containers.suites import SuiteFiles, read
from containers.verdict import Serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from containers.digest import Digest
    from containers.parameters import EvaluateOptions, EvaluateParameters
    from containers.step import Context
    from containers.store import Store
    from containers.verdict import Verdict


class Sizes(Frozen):
    """Bytes of the two checkpoints, 0 if unknown; and how both were served, if that was measured."""

    baseline: int = 0
    candidate: int = 0
    serving: tuple[Serving, ...] = Field(default=(), exclude_if=operator.not_)


@dataclass(frozen=True)
class Judgement:
    """A verdict, the report behind it, and both as an HTML page."""

    verdict: Verdict
    report: Frozen
    page: str


class Suite(Protocol):
    """A suite with a valid declaration."""

    def check(self, context: Context) -> None:
        """Raises BadInput if something that the suite needs is missing here, as far as that shows without a model."""

    def measure(
        self, parameters: EvaluateParameters, options: EvaluateOptions, store: Store, context: Context
    ) -> dict[str, bytes]:
        """Measure what the endpoint serves; gives the files of the measurement by path.

        Either everything is measured or this raises: Temporary when the endpoint or the hub fails, BadInput when the
        endpoint cannot be measured as the suite asks.
        """

    def judge(self, candidate: Path, baseline: Path, sizes: Sizes) -> Judgement:
        """Judge two measurements, given as folders with their files.

        Raises BadInput for a measurement of another kind or another version of the suite.
        """


def of_request(
    parameters: EvaluateParameters, options: EvaluateOptions, stored: Callable[[Digest], bytes]
) -> SuiteFiles:
    """The files of the requested suite; raises BadInput if they do not match its digest. `stored` reads a blob of the store."""
    if options.suite_stored:
        files = SuiteFiles.of_content(parameters.suite, stored(parameters.suite_digest))
    elif options.suite_files:
        files = SuiteFiles(name=parameters.suite, files=options.suite_files)
    else:
        files = read(parameters.suite)
    if files.digest != parameters.suite_digest:
        raise BadInput(
            f"the suite {files.name} here is {files.digest}, but the request names {parameters.suite_digest}",
            remedy="start the step from the same version of the project as the flow",
        )
    return files
