"""The names, ports and images of a dry run, from the variables of infra/compose.yaml."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from containers.errors import BadInput, faults
from flows.local.dry_run.compose import SERVICES, Stack
from infra.settings import IMAGES, Settings

if TYPE_CHECKING:
    from flows.orchestrator.work_pools import Host

# Images of services and steps; `modelcar-base` and `base` are parts of the others.
TARGETS = ("flow", "download", "quantize", "push", "evaluate", "serve-cpu", "registry", "objectstore", "hub")


class Database(StrEnum):
    """Where the Prefect server keeps its data."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


class Site(BaseSettings):
    """Each field is the variable CARWRIGHT_<NAME> of infra/compose.yaml; create it with `Site.read`."""

    model_config = SettingsConfigDict(env_prefix="CARWRIGHT_", extra="ignore")

    project: str = Field(default="carwright", pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    images_: str = Field(default=IMAGES, alias="CARWRIGHT_IMAGES")
    tag: str = "latest"
    socket: str = "/var/run/docker.sock"
    port: int = 4200
    registry_port: int = 5000
    store_port: int = 9000
    api_names: str = ""
    database: Database = Database.SQLITE
    signing_volume: str = ""

    @classmethod
    def read(cls) -> Site:
        """Read the variables; raises BadInput for an invalid value or an unknown variable."""
        Settings.check_variables()
        try:
            return cls()
        except ValidationError as error:
            raise BadInput(f"invalid variable of the dry run: {faults(error)}") from None

    @property
    def url(self) -> str:
        """The URL of the Prefect server and its UI, from this machine."""
        return f"http://127.0.0.1:{self.port}"

    def image(self, target: str) -> str:
        return f"{self.images_}/{target}:{self.tag}"

    def images(self) -> tuple[str, ...]:
        """All images that a run of the chain needs."""
        return tuple(self.image(target) for target in (*TARGETS, *self._extra))

    def signing(self) -> Site:
        """The same, with promotion signing by the keys in the volume that belongs to the dry run."""
        return self.model_copy(update={"signing_volume": f"{self.project}-signing"})

    @property
    def _extra(self) -> tuple[str, ...]:
        """Services, and their images, of the profile that is on."""
        return (self.database.value,) if self.database is Database.POSTGRES else ()

    def stack(self) -> Stack:
        """The services."""
        return Stack(
            self.project,
            {
                "CARWRIGHT_IMAGES": self.images_,
                "CARWRIGHT_TAG": self.tag,
                "CARWRIGHT_SOCKET": self.socket,
                "CARWRIGHT_PORT": str(self.port),
                "CARWRIGHT_REGISTRY_PORT": str(self.registry_port),
                "CARWRIGHT_STORE_PORT": str(self.store_port),
                "CARWRIGHT_API_NAMES": self.api_names,
                "CARWRIGHT_DATABASE": self.database.value,
                "CARWRIGHT_SIGNING_VOLUME": self.signing_volume,
                "COMPOSE_PROFILES": ",".join(self._extra),
            },
            services=(*SERVICES, *self._extra),
        )

    def host(self, group: int) -> Host:
        """The environment for the flow runs of the work pools; `group` may use the container engine's socket."""
        from flows.orchestrator.work_pools import Host

        return Host(
            project=self.project,
            images=self.images_,
            tag=self.tag,
            socket=self.socket,
            socket_group=group,
            environment={
                "CARWRIGHT_STORE__ENDPOINT": "http://objectstore:9000",
                # Links to reports are for a browser on this machine.
                "CARWRIGHT_STORE__PUBLIC_ENDPOINT": f"http://127.0.0.1:{self.store_port}",
                "CARWRIGHT_HUB_ENDPOINT": "http://hub:8080",
                "CARWRIGHT_REGISTRY__PLAIN_HTTP": json.dumps(["registry:5000"]),
                # The container engine is not in this network: it pulls from the port on its machine's loopback.
                "CARWRIGHT_DOCKER__REGISTRY_ALIASES": json.dumps({"registry:5000": f"127.0.0.1:{self.registry_port}"}),
                **({"CARWRIGHT_DOCKER__SIGNING_VOLUME": self.signing_volume} if self.signing_volume else {}),
            },
        )
