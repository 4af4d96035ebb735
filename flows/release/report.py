"""Finds the report of a verdict: a file of the run, a link to the store, or the image's referrer.

The page is a file of the verdict's artifact in the store. The embedded store only runs during a command, so the page is
also written into the run's folder. For an external store there is a signed link. A promoted image carries the page, and
`carwright report REFERENCE` reads it (`flows.release.statements`).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from glob import escape
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.safe_path import name_fault
from containers.verdict import PAGE_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from containers.contract import ArtifactRef
    from flows.runtime import Runtime

_DAYS: Final = 7  # the longest that S3 signs a link for


@dataclass(frozen=True)
class ReportLocation:
    """The location of the page: `path` of a local file, or `link` for a browser; and the command that shows it.

    A command that reads the page from the image works once it is attached: `promoted` says whether it is going to be.
    """

    command: str
    path: str = ""
    link: str = ""

    def shown(self, *, promoted: bool) -> str:
        """In one piece, for a terminal."""
        return self.path or (self.command if promoted else self.link)

    def markdown(self, *, promoted: bool) -> str:
        command = f"On a command line: `{self.command}`\n" if self.path or promoted else ""
        where = (
            f"[open the report]({self.link}) (the link expires after {_DAYS} days)" if self.link else f"`{self.path}`"
        )
        return f"# Report\n\n{where}\n\n{command}"


def publish_page(runtime: Runtime, verdict: ArtifactRef, reference: str) -> ReportLocation | None:
    """Publish the page of a verdict; None if it has none. `reference` is what was judged, by the name that a person uses."""
    entry = next((one for one in runtime.store.load(verdict).files if one.path == PAGE_FILE), None)
    if entry is None:
        return None
    if runtime.settings.store.folder is None:
        command = shlex.join(["carwright", "report", reference])
        return ReportLocation(command=command, link=runtime.store.link(entry, days=_DAYS))
    path = runtime.settings.home.resolve() / "runs" / runtime.run / PAGE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(runtime.store.read_bytes(entry.sha256))
    return ReportLocation(command=f"carwright report {runtime.run}", path=str(path))


def of_run(home: Path, run: str) -> Path:
    """The page of a run in this folder. `run` may be a prefix; empty means the last run with a page.

    Raises BadInput for what is no name of a run, and where there is no page.
    """
    if run and (fault := name_fault(run)):
        raise BadInput(f"the name of a run {run!r} {fault}", remedy="`carwright runs` lists the runs")
    runs = (home / "runs").resolve()
    pages = sorted(runs.glob(f"{escape(run)}*/{PAGE_FILE}"))
    found = [page for page in pages if page.resolve().is_relative_to(runs)]
    if not found:
        raise BadInput(
            f"no run{f' {run}' if run else ''} with a report in {home}",
            remedy="`carwright runs` lists the runs; a promoted image has its report too: give its reference",
        )
    return found[-1]
