"""The sweeper as a flow: deployed for each kind of Docker host and run on a schedule."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger

from flows.runners.docker.sweeper import check_removed, sweep
from flows.unread_output import outlive_worker
from infra.settings import Settings


@flow(name="sweep-containers", flow_run_name="sweep containers", persist_result=False)
def sweep_containers(dry_run: bool = False) -> None:  # noqa: FBT001 - a parameter of a deployment is plain
    """Remove abandoned containers from this host's container engine; with `dry_run` only list them."""
    outlive_worker()
    log = get_run_logger()
    found = sweep(Settings().docker, dry_run=dry_run)
    for one in found:
        log.info("%s %s: %s", "removed" if one.removed and not dry_run else "left", one.name, one.why)
    rows = [
        {"container": one.name, "step": one.step, "run": one.run, "removed": one.removed, "why": one.why}
        for one in found
    ]
    if rows:
        create_table_artifact(key="containers", table=rows, description="Containers found on this container engine")
    check_removed(found)
