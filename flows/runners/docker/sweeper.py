"""Removes containers that nobody waits for any more: those of runs that have ended, or that nobody knows.

Whose a container is stands in its labels. The first of these that can be answered decides:

1. A service that was kept stays, for as long as it serves.
2. The process that made it, where that can be seen from here: while it lives the container stays.
3. The flow run at the Prefect server: a container of a run that goes on stays, whatever became of its worker.
4. The heartbeat of whoever waits for it: after an hour without one the container is removed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

import httpx

from containers.errors import Error, Temporary
from flows.orchestrator.prefect_import import import_prefect
from infra.container_engine import connect
from infra.container_engine.ownership import ALIVE, ALIVE_SILENCE, LEASE, is_alive, is_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from infra.container_engine import Container, ContainerEngine
    from infra.settings import DockerSettings

    Asked = Callable[[str], bool | None]


@dataclass(frozen=True)
class SweptContainer:
    """One container and what becomes of it; `why` is for people. `failed`: it should go, and the engine could not remove it."""

    name: str
    run: str
    step: str
    removed: bool
    why: str
    failed: bool = False


def sweep(settings: DockerSettings, *, dry_run: bool = False, goes_on: Asked | None = None) -> list[SweptContainer]:
    """Look at every container of the project and remove, unless `dry_run`, what nobody waits for.

    `goes_on` says whether a flow run (by its id) has not ended, None when that cannot be found out; by default the
    Prefect server is asked. One that cannot be removed is `failed`, and keeps no other. Raises BadInput and Temporary when the
    engine cannot be reached.
    """
    ask = goes_on or flow_run_goes_on
    found = []
    with connect(settings) as engine:
        for container in engine.containers():
            if container.labels.get("part") == "modelcar":
                continue  # judged and removed with its server
            wanted, why = _judge(engine, container, ask)
            found.append(_swept(container, wanted, why))
        servers = {one.name: one for one in found}
        for container in engine.containers(part="modelcar"):
            server = servers.get(container.labels.get("server", ""))
            # Without a server: one is about to be made, or the run ended before it was.
            wanted, why = (not server.removed, server.why) if server else _judge(engine, container, ask)
            found.append(_swept(container, wanted, why))
        return found if dry_run else [_removed(engine, one) for one in found]


def check_removed(found: Iterable[SweptContainer]) -> None:
    """Raises Temporary that names what could not be removed."""
    if left := [f"{one.name} ({one.why})" for one in found if one.failed]:
        raise Temporary(
            f"{len(left)} containers could not be removed: {'; '.join(left)}",
            remedy="a file system that is busy is free after a while: run `carwright sweep` again",
        )


def _removed(engine: ContainerEngine, one: SweptContainer) -> SweptContainer:
    if one.removed:
        try:
            engine.remove(one.name)
        except Error as error:
            return replace(one, removed=False, failed=True, why=f"{one.why}; {error}")
    return one


def _swept(container: Container, wanted: bool, why: str) -> SweptContainer:  # noqa: FBT001
    labels = container.labels
    return SweptContainer(container.name, labels.get("run", ""), labels.get("step", ""), removed=not wanted, why=why)


def _judge(engine: ContainerEngine, container: Container, ask: Asked) -> tuple[bool, str]:
    """Whether it is still needed, and why."""
    if container.labels.get("part") == "server" and is_kept(container):
        return True, "a service that was kept"
    alive = is_alive(container.labels.get("owner", ""))
    if alive is not None:
        return alive, "the process that made it lives" if alive else "the process that made it has ended"
    flow_run = container.labels.get("flow-run")
    if flow_run is not None:
        going = ask(flow_run)
        if going is None:
            return True, "the Prefect server cannot be asked about its run"
        return going, "its run goes on" if going else "its run has ended or is unknown"
    signs = [at for at in (container.modified(path) for path in (ALIVE, LEASE)) if at is not None]
    silent = engine.now() - max(signs, default=container.created)
    if silent > ALIVE_SILENCE:
        return False, f"no heartbeat for {silent / 3600:.0f} h"
    return True, "a heartbeat within the last hour"


def flow_run_goes_on(flow_run: str) -> bool | None:
    """Ask the Prefect server; None without one, or when it does not answer."""
    import_prefect()
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound, PrefectException
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return None  # a client would start a server of its own, which knows nothing
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(flow_run)).state
    except ObjectNotFound:
        return False
    except (PrefectException, httpx.HTTPError, OSError, RuntimeError):
        return None
    return state is not None and not state.is_final()
