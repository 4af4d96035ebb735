"""Creates what the deployments of infra/prefect.yaml need on a Prefect server: pools, queues, block and automation.

Missing objects are created and existing ones updated, so it can be repeated. The pool holds what belongs to a host: the
socket of its container engine, the network, the volumes with the secrets, and the image and environment of flow runs. The
deployment, in infra/prefect.yaml, holds what belongs to a flow: parameters and schedule.

The pool's job template has no variables: everything that decides what a container may do is fixed in it. The server refuses
runs and deployments with job variables, and a worker ignores any that reach it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from prefect.automations import Automation
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists
from prefect.variables import Variable

from containers.labels import FLOW_RUNS
from flows.orchestrator.child_runs import api
from flows.orchestrator.results import result_storage
from flows.runners.step_container import has_registry
from infra.hardening import DROPPED, NO_NEW_PRIVILEGES, PIDS, USER
from infra.settings import IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prefect.client.orchestration import SyncPrefectClient

CPU: Final = "carwright-cpu"
GPU: Final = "carwright-gpu"
SILENT: Final = timedelta(seconds=90)  # three heartbeats of 30 s, the shortest interval that Prefect allows
_SILENCE: Final = "Carwright: a flow run that fell silent has crashed"


@dataclass(frozen=True)
class Queue:
    """A work queue of a pool; `limit` is the most concurrent runs, `priority` 1 comes first."""

    name: str
    limit: int | None
    priority: int
    description: str


@dataclass(frozen=True)
class Pool:
    """A work pool of the docker type; `limit` is the most concurrent flow runs."""

    name: str
    description: str
    limit: int
    queues: tuple[Queue, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """Name of the Prefect variable that holds the environment of the pool's runs."""
        return self.name.replace("-", "_")


# A run of the chain waits for its child runs. These have queues of their own, so that parents cannot take all the slots that
# their children need.
POOLS: Final = (
    Pool(
        CPU,
        "Docker hosts without a GPU",
        8,
        (
            Queue("ship", 2, 1, "runs of the whole chain"),
            Queue("steps", 4, 2, "single steps placed here"),
            Queue("watch", 2, 3, "scans for new releases, and the sweeper"),
        ),
    ),
    Pool(
        GPU,
        "Docker hosts with GPUs",
        8,
        (
            Queue("ship", 1, 1, "runs of the whole chain"),
            Queue("steps", 4, 2, "single steps placed here, at most one for each GPU"),
        ),
        {"CARWRIGHT_RESOURCES__QUANTIZE__GPUS": "-1", "CARWRIGHT_RESOURCES__SERVE__GPUS": "-1"},  # all of them
    ),
)


@dataclass(frozen=True)
class Host:
    """The environment of flow runs on a Docker host.

    `project` names the network, the volumes with the secrets (`<project>-secrets` and, for the login of the Prefect API,
    `<project>-login`) and the containers of runs.
    `socket_group` is the id of the group that may use the container engine's socket there; without it flow runs get no
    socket, and `environment` must name a remote engine. `environment` holds the addresses of store, hub and registry.
    """

    project: str = "carwright"
    images: str = IMAGES
    tag: str = "latest"
    socket: str = "/var/run/docker.sock"
    socket_group: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def template(self, pool: Pool) -> dict[str, Any]:
        """The base job template for Prefect's docker worker, without any job variables.

        The environment is a Prefect variable and not a table, because a worker would merge a run's own `env` into a table
        and so let the run change settings.
        """
        environment = f"prefect.variables.{pool.variable}"
        volumes = [f"{self.project}-secrets:/run/secrets:ro", f"{self.project}-login:/run/login:ro"]
        image = f"{self.images}/flow:{self.tag}"
        create: dict[str, Any] = {
            "init": True,  # a process 1 that forwards signals and reaps orphans
            "user": f"{USER}:0",
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777", "/home/carwright": f"uid={USER},gid=0,mode=0700"},  # noqa: S108 - the run's own
            "cap_drop": list(DROPPED),
            "security_opt": [NO_NEW_PRIVILEGES],
            "pids_limit": PIDS,
        }
        if self.socket_group is not None:
            volumes.append(f"{self.socket}:/var/run/docker.sock")
            create["group_add"] = [str(self.socket_group)]
            create["security_opt"] += ["label=disable"]  # with SELinux a container may not open the socket otherwise
        return {
            "job_configuration": {
                "command": "python -m infra.with_login prefect flow-run execute",
                "env": f"{{{{ {environment} }}}}",
                "image": image,
                "image_pull_policy": "IfNotPresent" if has_registry(image) else "Never",
                "networks": [self.project],
                "volumes": volumes,
                "privileged": False,
                "auto_remove": True,
                "stream_output": True,
                "labels": {FLOW_RUNS: self.project},
                "container_create_kwargs": create,
            },
            # The server requires the placeholder to be declared; no value that a run gives is valid.
            "variables": {"type": "object", "properties": {environment: {"not": {}}}, "additionalProperties": False},
        }

    def variables(self, pool: Pool) -> dict[str, str | None]:
        """The environment of the pool's runs. None removes a variable that a worker would pass on: the login."""
        return {
            "CARWRIGHT_LAUNCHER": "docker",
            "CARWRIGHT_DOCKER__PROJECT": self.project,
            "CARWRIGHT_DOCKER__NETWORK": self.project,
            "CARWRIGHT_DOCKER__IMAGE": f"{self.images}/{{target}}:{self.tag}",
            "PREFECT_HOME": "/tmp/prefect",  # noqa: S108 - in the run's own container; otherwise the worker's value leaks in
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            **pool.environment,
            **self.environment,
            **dict.fromkeys(("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")),
        }


def prepare(host: Host, say: Callable[[str], None], pools: tuple[str, ...] = (CPU, GPU)) -> None:
    """Create or update everything on the server of PREFECT_API_URL; `pools` names those on hosts like `host`.

    Raises NotReady when the server cannot be reached.
    """
    with api() as client:
        for pool in POOLS:
            if pool.name in pools:
                Variable.set(pool.variable, host.variables(pool), overwrite=True)
                _pool(client, pool, host.template(pool))
                say(f"work pool {pool.name}: {pool.description}; queues {', '.join(q.name for q in pool.queues)}")
    result_storage()
    _automation()
    say("block for results, and the automation that ends runs without heartbeats")


def _pool(client: SyncPrefectClient, pool: Pool, template: dict[str, Any]) -> None:
    attributes = {"description": pool.description, "concurrency_limit": pool.limit, "base_job_template": template}
    try:
        client.create_work_pool(WorkPoolCreate(name=pool.name, type="docker", **attributes))
    except ObjectAlreadyExists:  # from before, or made a moment ago by a worker, which needs one
        client.update_work_pool(pool.name, WorkPoolUpdate(**attributes))
    for queue in pool.queues:
        settings: dict[str, Any] = {
            "description": queue.description,
            "concurrency_limit": queue.limit,
            "priority": queue.priority,
        }
        try:
            client.create_work_queue(name=queue.name, work_pool_name=pool.name, **settings)
        except ObjectAlreadyExists:
            known = client.read_work_queue_by_name(queue.name, work_pool_name=pool.name)
            client.update_work_queue(known.id, **settings)


def _automation() -> None:
    """Mark a flow run as crashed when its heartbeats stop before it reports a final state.

    This ends the run of a killed container: the container removes itself, so no worker sees its exit code.
    """
    wanted = Automation(
        name=_SILENCE,
        description="PREFECT_FLOWS_HEARTBEAT_FREQUENCY in the run's environment turns the heartbeats on.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                "prefect.flow-run.Completed",
                "prefect.flow-run.Failed",
                "prefect.flow-run.Cancelled",
                "prefect.flow-run.Crashed",
            },
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENT,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {SILENT.seconds} seconds: its container or its host is gone",
            )
        ],
    )
    try:
        known: Any = Automation.read(name=_SILENCE)
    except ValueError:  # Prefect raises it for an unknown name
        wanted.create()
    else:
        wanted.model_copy(update={"id": known.id}).update()
