"""The one tree of settings: read at an entry point, passed down, and never looked up again.

Every setting can be given as an environment variable (`CARWRIGHT_STORE__BUCKET`), in a file `carwright.toml` in the
working directory, or, for secrets, as a file of the variable's name under /run/secrets.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from containers.errors import BadInput, faults

PYTORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # as PyTorch's installation page names it
_SECRETS = Path("/run/secrets")


class Section(BaseModel):
    """Settings of one concern; a misspelt name is refused and not passed over."""

    model_config = ConfigDict(extra="forbid")


class StoreSettings(Section):
    """The object store. Without an endpoint the embedded server is started."""

    endpoint: str | None = Field(
        default=None,
        description="URL of an S3 endpoint; unset starts the embedded server on loopback",
    )
    public_endpoint: str | None = Field(
        default=None,
        description="URL under which a browser reaches the endpoint, for links to reports; unset means the endpoint",
    )
    bucket: str = Field(default="carwright", description="bucket; created when missing")
    prefix: str = Field(default="", description="key prefix inside the bucket")
    region: str = Field(default="us-east-1", description="region name for request signing")
    access_key_id: SecretStr | None = Field(
        default=None, description="unset falls back to the usual AWS credential chain"
    )
    secret_access_key: SecretStr | None = Field(default=None, description="goes with the key id")
    folder: Path | None = Field(
        default=None,
        description="folder behind the embedded server, which sets this: its free space is looked at before a write",
    )


class RegistrySettings(Section):
    """Registries. Without a user name, Docker's and Podman's own login files and helpers are asked."""

    username: str | None = Field(default=None, description="user name for every registry")
    password: SecretStr | None = Field(default=None, description="password or token; goes with the user name")
    auth_file: Path | None = Field(
        default=None, description="login file in Docker's format; unset looks where docker and podman keep theirs"
    )
    plain_http: tuple[str, ...] = Field(
        default=(), description="hosts (with their port) that speak HTTP without TLS; loopback always may"
    )
    parallel: Annotated[int, Field(ge=1, le=32)] = Field(default=4, description="blobs sent or read at once")
    timeout: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="seconds without a byte until a connection counts as broken"
    )
    attempts: Annotated[int, Field(ge=1)] = Field(
        default=7, description="how often a request is sent before a temporary error is final"
    )
    layer_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0, description="most bytes in one layer; 0 takes the known limit of the registry, if there is one"
    )


class SourceSettings(Section):
    """Where `s3://bucket/prefix` sources are read from: any S3 endpoint, which need not be the store's."""

    endpoint: str | None = Field(default=None, description="URL of the S3 endpoint of s3:// sources; unset means AWS")
    region: str = Field(default="us-east-1", description="region name for request signing")
    access_key_id: SecretStr | None = Field(
        default=None, description="unset falls back to the usual AWS credential chain"
    )
    secret_access_key: SecretStr | None = Field(default=None, description="goes with the key id")


class ServeSettings(Section):
    """vLLM as a service."""

    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="port of the served model; 0 takes a free one"
    )
    ready_timeout: Annotated[float, Field(gt=0)] = Field(
        default=600.0, description="seconds until vLLM must answer its health check"
    )
    advertise: str = Field(
        default="",
        description="name or address by which other machines reach a model served on this one; empty: as it listens",
    )
    kv_cache_gib: Annotated[int, Field(ge=1)] = Field(
        default=1, description="GiB of memory for the KV cache of vLLM's CPU backend"
    )
    engine: str = Field(
        default="",
        description="name and version of what serves, as measurements are named by it (vllm 0.23.0); empty: the CPU build of "
        "the lock, with GPUs the serve image's name",
    )
    keep_gb: Annotated[float, Field(ge=0)] = Field(
        default=50.0,
        description="GB of unpacked models that are kept for the next run; more only while they are served",
    )


class DockerSettings(Section):
    """Steps and services as containers of a Docker engine. The tables are by step (`quantize`), or `*` for all of them."""

    host: str | None = Field(
        default=None,
        description="URL of the engine (unix://, tcp:// or ssh://); unset follows DOCKER_HOST, then the local socket",
    )
    project: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")] = Field(
        default="carwright",
        description="whose containers these are: nothing of another project on the same engine is found, swept or stopped",
    )
    image: str = Field(
        default="carwright/{target}:latest",
        description="name of the images; {target} is download, quantize, push, serve-cpu, ..., with GPUs serve and quantize-cuda",
    )
    network: str = Field(
        default="host",
        description="network of the containers: host shares the engine's machine; else a network of the engine, by name",
    )
    extra_hosts: dict[str, str] = Field(default={}, description="names that containers know: name to address")
    registry_aliases: dict[str, str] = Field(
        default={}, description="registries that the engine knows under another name than the steps: theirs to its own"
    )
    memory_gib: dict[str, Annotated[float, Field(gt=0)]] = Field(default={}, description="most GiB of memory, by step")
    cpus: dict[str, Annotated[float, Field(gt=0)]] = Field(default={}, description="most processors, by step")
    gpus: dict[str, Annotated[int, Field(ge=-1)]] = Field(default={}, description="GPUs, by step; -1 takes all of them")
    gpu_kind: Literal["nvidia", "rocm"] = Field(default="nvidia", description="whose GPUs the engine's machine has")
    modelcar: Literal["sidecar", "mount"] = Field(
        default="sidecar",
        description="how vLLM reads a modelcar: sidecar as KServe does; mount as an image mount (Docker 28 or later)",
    )
    step_timeout: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="seconds after which a step's container is ended; unset means never"
    )


class KubernetesSettings(Section):
    """Steps as Jobs of a Kubernetes cluster, and deployments to KServe. The tables are by step (`quantize`), or `*`."""

    kubeconfig: Path | None = Field(
        default=None, description="unset: the pod's service account, then KUBECONFIG, then ~/.kube/config"
    )
    context: str | None = Field(default=None, description="context of the kubeconfig; unset takes its current one")
    namespace: str = Field(default="", description="namespace; empty takes the context's own")
    image: str = Field(
        default="carwright/{target}:latest",
        description="name of the images; {target} is download, quantize, push, evaluate, with GPUs quantize-cuda",
    )
    pull_logins: tuple[str, ...] = Field(default=(), description="Secrets with logins for the images' registry")
    service_account: str = Field(default="carwright-step", description="account of a step's pod; it needs no rights")
    cpus: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={"*": 1, "quantize": 4, "serve": 4}, description="processors that a step asks for, by step"
    )
    memory_gib: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={"*": 4, "quantize": 32, "serve": 32}, description="GiB of memory, asked for and the most, by step"
    )
    scratch_gib: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={"*": 20, "download": 100, "quantize": 100, "serve": 200},
        description="GiB of a node's disk at most, by step",
    )
    gpus: dict[str, Annotated[int, Field(ge=0)]] = Field(default={}, description="GPUs, by step")
    gpu_resource: str = Field(
        default="nvidia.com/gpu", description="what the cluster calls a GPU; its taint is tolerated"
    )
    node_selector: dict[str, str] = Field(default={}, description="labels of the nodes that steps may run on")
    pending_timeout: Annotated[float, Field(gt=0)] = Field(
        default=900.0,
        description="seconds until a step's pod must have started: no node may fit it, or an image be missing",
    )
    step_timeout: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="seconds after which the cluster ends a step; unset means never"
    )
    service_timeout: Annotated[int, Field(gt=0)] = Field(
        default=86400, description="seconds after which the cluster ends a served model that is not to stay"
    )
    ttl: Annotated[int, Field(ge=0)] = Field(default=3600, description="seconds that a finished Job and its log stay")
    owner_pod: str = Field(default="", description="pod of the flow, with whose removal its steps go, too")
    owner_uid: str = Field(default="", description="its uid; both are set by the work pool in infra/kubernetes")


class PlacementSettings(Section):
    """Steps that run on other machines, as child runs of a deployment of the flow `run-step`; empty: where the flow runs."""

    download: str = Field(default="", description="deployment that runs download, such as run-step/cpu")
    quantize: str = Field(default="", description="deployment that runs quantize, such as run-step/gpu")
    push: str = Field(default="", description="deployment that runs push and promote")
    serve: str = Field(default="", description="deployment that serves models, such as run-step/gpu")
    evaluate: str = Field(default="", description="deployment that runs evaluate")
    runs: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="child runs that share one quantization: one for each GPU of the work pool"
    )
    patience: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="seconds to wait for a live worker of the work pool, at each of three attempts"
    )
    start_timeout: Annotated[float, Field(gt=0)] = Field(
        default=900.0, description="seconds from a worker's taking a child run to its start (an image may be pulled)"
    )
    silence: Annotated[float, Field(ge=1)] = Field(
        default=90.0,
        description="seconds without a heartbeat after which a child run, or its parent, counts as dead",
    )

    @property
    def used(self) -> bool:
        """Whether any step is placed."""
        return any((self.download, self.quantize, self.push, self.serve, self.evaluate))

    def deployment(self, step: str) -> str:
        """The deployment (flow/deployment) for a step; empty where there is none."""
        return str(getattr(self, step))


class WatchSettings(Section):
    """The models that are watched for new revisions, base images and tools."""

    models: Path | None = Field(
        default=None, description="file with the watched models; unset means the one that ships, infra/models.yaml"
    )
    interval: Annotated[float, Field(gt=0)] = Field(default=3600.0, description="seconds between two looks")
    parallel: Annotated[int, Field(ge=1, le=32)] = Field(default=8, description="models that are looked at at once")
    lost_after: Annotated[float, Field(ge=0)] = Field(
        default=600.0,
        description="seconds after which a change whose event started no run is announced again, three times at most",
    )
    index: bool = Field(
        default=False, description="also ask pip's package index for newer versions of the tools that decide the bytes"
    )


class EvaluateSettings(Section):
    """Measuring."""

    data: Path | None = Field(
        default=None,
        description="folder with data sets as the hub has them (FOLDER/openai/gsm8k); what is not there comes from the hub",
    )
    humaneval_plus: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("humaneval_plus", "HUMANEVAL_OVERRIDE_PATH"),
        description="file with the problems of HumanEval+ (JSON lines, EvalPlus's format)",
    )
    sandbox: Literal["auto", "bubblewrap", "container"] = Field(
        default="auto",
        description="what generated code runs in: bubblewrap, or the limits of the step's own container; auto takes "
        "bubblewrap where it works",
    )
    concurrency: int = Field(default=8, ge=1, description="requests to the measured model in flight at once")
    request_timeout: float = Field(default=300.0, gt=0, description="seconds that an answer of the model may take")
    attempts: int = Field(default=4, ge=1, description="how often a request is sent that fails for a passing reason")


class Settings(BaseSettings):
    """All of it. `carwright settings` prints the values in force, with secrets masked."""

    model_config = SettingsConfigDict(
        env_prefix="CARWRIGHT_",
        env_nested_delimiter="__",
        toml_file="carwright.toml",
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
        extra="forbid",
        populate_by_name=True,
    )

    def __init__(self, **values: Any) -> None:
        """Raises BadInput, which names the setting, for a value that does not fit and for an unknown name."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadInput(
                f"the settings do not fit: {faults(error)}",
                remedy="change the variable CARWRIGHT_<NAME> or the entry in carwright.toml; in a container of a step: its image "
                "may be of another version (`carwright images load`)",
            ) from None  # the cause would show the value, which may be a secret
        except SettingsError as error:
            raise BadInput(f"the settings do not fit: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"carwright.toml is not TOML: {error}") from error

    home: Path = Field(
        default=Path(".carwright"),
        description="state of this folder's runs: store, environments, logs, services",
    )
    cache: Path = Field(
        default=Path("~/.cache/carwright"),
        description="what any folder may share: step environments and the demo model",
    )
    store: StoreSettings = StoreSettings()
    source: SourceSettings = SourceSettings()
    registry: RegistrySettings = RegistrySettings()
    serve: ServeSettings = ServeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    watch: WatchSettings = WatchSettings()
    placement: PlacementSettings = PlacementSettings()
    launcher: Literal["process", "docker", "kubernetes"] = Field(
        default="process", description="how steps are started: in environments of this machine, or from images"
    )
    docker: DockerSettings = DockerSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    overlap_gb: Annotated[float, Field(ge=0)] = Field(
        default=4.0,
        description="GB from which on a checkpoint is quantized, shard by shard, while it is still being downloaded",
    )
    busybox: Path | None = Field(
        default=None,
        description="file with the pinned busybox (or its Debian package) for the modelcar's base; unset looks for it",
    )
    docker_config: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("CARWRIGHT_DOCKER_CONFIG", "DOCKER_CONFIG", "docker_config"),
        description="folder of Docker's config.json; unset means ~/.docker",
    )
    hub_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("CARWRIGHT_HUB_ENDPOINT", "HF_ENDPOINT", "hub_endpoint"),
        description="URL of a Hugging Face hub; unset means the public one",
    )
    hub_token: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("CARWRIGHT_HUB_TOKEN", "HF_TOKEN", "hub_token"),
        description="hub token for gated models; unset falls back to the token file of the hub's own client",
    )
    pip_extra_index_url: SecretStr | None = Field(
        default=None,
        description="URL of one more package index for step environments and images, for every package",
    )
    pip_pytorch_index_url: SecretStr = Field(
        default=SecretStr(PYTORCH_INDEX),
        description="URL of the index that is asked for CPU builds of PyTorch (`+cpu`) when no other index offers them",
    )
    notify_webhook: SecretStr | None = Field(
        default=None, description="URL that is sent a JSON POST when a flow run fails"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="how steps write their lines; auto is text on a terminal"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First wins: arguments, environment, mounted secrets (files named like the variables), carwright.toml."""
        return (
            init_settings,
            env_settings,
            NestedSecretsSettingsSource(file_secret_settings),
            TomlConfigSettingsSource(settings_cls),
        )


Tree = TypeVar("Tree", bound=BaseModel)


def absolute(tree: Tree) -> Tree:
    """The same settings for a process with another working directory: every path in them is absolute."""
    changed: dict[str, Any] = {}
    for name in type(tree).model_fields:
        value = getattr(tree, name)
        if isinstance(value, BaseModel):
            changed[name] = absolute(value)
        elif isinstance(value, Path):
            changed[name] = value.expanduser().absolute()
    return tree.model_copy(update=changed)
