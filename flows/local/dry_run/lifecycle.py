"""Starts and removes a dry run: the whole chain on this machine's Docker engine, under a Prefect server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from containers.errors import BadInput
from containers.labels import FLOW_RUNS
from containers.process import export
from flows.local.dry_run import compose
from flows.local.dry_run.site import Database
from infra.credentials import LOGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flows.local.dry_run.compose import Stack
    from flows.local.dry_run.site import Site


def up(site: Site, log: Callable[[str], None], keys: Mapping[str, str] | None = None) -> None:
    """Start the services, one of which creates the work pools and registers the deployments; safe to repeat.

    `keys` are files with keys that sign, by name: they go to a volume that the container which promotes mounts.
    Raises BadInput if a container engine, Compose or an image is missing or a port is in use; NotReady if a service does
    not become healthy.
    """
    if absent := compose.missing(site.images()):
        raise BadInput(
            f"the container engine does not have the images {', '.join(absent)}",
            remedy="`make images` builds and loads them",
        )
    began = time.monotonic()
    if keys:
        site = site.signing()
        hand_over(site.stack(), keys)
        log(f"promotion signs with {', '.join(sorted(one for one in keys if one.endswith('.key')))}")
    stack = site.stack()
    log("starting the services")
    # By name: the file has services whose images are only built.
    stack.compose("up", "-d", "--no-build", "--remove-orphans", *stack.services, *stack.once)
    stack.wait(log)
    # Prefect reads its settings once, when it is imported; whoever follows a run imports it next.
    export(_prefect(site, stack))
    log(f"deployments are registered; start-up took {time.monotonic() - began:.0f} s")


def hand_over(stack: Stack, keys: Mapping[str, str]) -> None:
    """Replace the keys in the volume of the dry run; they go through standard input, so that no command line has them."""
    command = ("python", "-m", "infra.credentials", "/signing", "--owner", "1001:0", "--from", "-")
    stack.compose("run", "--rm", "-T", "--no-deps", "keys", *command, stdin=json.dumps(dict(keys)))


def down(site: Site, log: Callable[[str], None], *, volumes: bool) -> None:
    """Stop and remove every container of the project, including flow runs and steps; with `volumes` also its data."""
    if runs := compose.labelled(FLOW_RUNS, site.project):
        log(f"ending {len(runs)} flow runs")
        compose.docker("stop", "--time", "30", *runs, timeout=120)
    if left := compose.labelled(FLOW_RUNS, site.project) + compose.labelled(compose.STEPS, site.project):
        compose.docker("rm", "--force", "--volumes", *left)
    everything = site.model_copy(
        update={"database": Database.POSTGRES}
    )  # of a profile that is off nothing would be removed
    everything.stack().compose("down", "--remove-orphans", *(["--volumes"] if volumes else []))
    log(
        "containers and data are removed"
        if volumes
        else "the containers are removed; --volumes also removes store, registry and runs"
    )


def api(site: Site, stack: Stack | None = None) -> dict[str, str]:
    """The environment variables of a client of the Prefect API, including the login, which is secret."""
    return {"PREFECT_API_URL": f"{site.url}/api", LOGIN: (stack or site.stack()).login()}


def _prefect(site: Site, stack: Stack) -> dict[str, str]:
    return {
        **api(site, stack),
        "PREFECT_UI_URL": site.url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
