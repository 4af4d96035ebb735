"""Starts and removes a dry run: the whole chain on this machine's Docker engine, under a Prefect server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import infra
from containers.errors import BadInput
from containers.process import export, inherited, run
from flows.local.dry_run import compose
from flows.orchestrator.prefect_import import import_prefect
from infra.credentials import LOGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.local.dry_run.compose import Stack
    from flows.local.dry_run.site import Site

_DEPLOY: Final = 300.0  # seconds for `prefect deploy`, which imports every flow
_PREFECT_YAML: Final = Path(infra.__file__).parent / "prefect.yaml"


def up(site: Site, log: Callable[[str], None]) -> None:
    """Start the services, create the work pools and register the deployments; safe to repeat.

    Raises BadInput if a container engine, Compose or an image is missing or a port is in use; NotReady if a service does
    not become healthy.
    """
    if absent := compose.missing(site.images()):
        raise BadInput(
            f"the container engine does not have the images {', '.join(absent)}",
            remedy="`make images` builds and loads them",
        )
    group = compose.socket_group(site.image("flow"), site.socket)
    stack = site.stack(group)
    began = time.monotonic()
    log("starting the services")
    stack.compose("up", "-d", "--remove-orphans")
    stack.wait(log, but="worker")  # it starts while the deployments are registered

    # Prefect reads its settings once, when it is imported.
    environment = _prefect(site, stack)
    export(environment)
    import_prefect()
    from flows.orchestrator.child_runs import check_server
    from flows.orchestrator.work_pools import prepare

    check_server()
    prepare(site.host(group), log)
    run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(_PREFECT_YAML)],
        env=inherited() | environment, cwd=_PREFECT_YAML.parent, timeout=_DEPLOY)  # fmt: skip
    stack.wait(lambda _: None)
    log(f"deployments are registered; start-up took {time.monotonic() - began:.0f} s")


def down(site: Site, log: Callable[[str], None], *, volumes: bool) -> None:
    """Stop and remove every container of the project, including flow runs and steps; with `volumes` also its data."""
    if runs := compose.labelled(compose.FLOW_RUNS, site.project):
        log(f"ending {len(runs)} flow runs")
        compose.docker("stop", "--time", "30", *runs, timeout=120)
    if left := compose.labelled(compose.FLOW_RUNS, site.project) + compose.labelled(compose.STEPS, site.project):
        compose.docker("rm", "--force", "--volumes", *left)
    site.stack(0).compose("down", "--remove-orphans", *(["--volumes"] if volumes else []))
    log(
        "containers and data are removed"
        if volumes
        else "the containers are removed; --volumes also removes store, registry and runs"
    )


def api(site: Site, stack: Stack | None = None) -> dict[str, str]:
    """The environment variables of a client of the Prefect API, including the login, which is secret."""
    return {"PREFECT_API_URL": f"{site.url}/api", LOGIN: (stack or site.stack(0)).login()}


def _prefect(site: Site, stack: Stack) -> dict[str, str]:
    return {
        **api(site, stack),
        "PREFECT_UI_URL": site.url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
