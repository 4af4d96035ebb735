"""Retention as a flow: deployed once for each store, on a schedule."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from flows.retention.report import HEADINGS, sweep
from flows.runtime import current


@flow(name="sweep-store", flow_run_name="sweep the store", persist_result=False)
def sweep_store(older_days: float = 14, keep_gb: float | None = None, dry_run: bool = False) -> None:  # noqa: FBT001 - a parameter of a deployment is plain
    """Remove from the store what nothing needs; with `dry_run` only list it. See docs/how-to/keep-the-store-small.md."""
    log = get_run_logger()
    report = sweep(current().store, timedelta(days=older_days), keep_gb=keep_gb, dry_run=dry_run)
    log.info("%s: %s", "would remove" if dry_run else "removed", report.headline or "nothing")
    for note in report.notes:
        log.warning("%s", note)
    if rows := report.rows():
        named = [dict(zip(("fate", *HEADINGS[1:]), row, strict=True)) for row in rows]
        create_table_artifact(
            key="store", table=named, description=f"The store: {report.headline or 'nothing to remove'}"
        )
