"""The settings of the flow side: those of the steps, and those that only flows use.

Every setting can be given as an environment variable (`CARWRIGHT_STORE__BUCKET`), or, for secrets, as a file of the
variable's name under /run/secrets; most also in a file `carwright.toml` in the working directory (`infra.settings_file` has
the others). An unknown name is refused.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic resolves the annotations
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, SecretStr
from pydantic_settings import EnvSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from containers.setting_names import names_in_tables, names_of_variables, refuse_unknown
from containers.setting_types import Secret  # noqa: TC001 -- pydantic reads the annotation
from containers.settings import COMPOSE, EvaluateSettings, Section, ServeSettings, StepSettings
from infra.settings_file import FILE, refuse_from_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_settings import PydanticBaseSettingsSource

    from containers.contract import Step
    from containers.setting_names import GivenName

# A registry called localhost is this machine, and there is none: an image that is missing cannot come from anywhere else
# under this name. Docker Hub's `carwright` is anybody's who takes it.
IMAGES: Final = "localhost/carwright"
PYTORCH_INDEX: Final = "https://download.pytorch.org/whl/cpu"  # as PyTorch's installation page names it

# What the tables of resources were called when each launcher had its own.
_RENAMED: Final = {
    f"CARWRIGHT_{launcher}__{resource}": f"CARWRIGHT_RESOURCES__{{step}}__{resource}"
    for launcher in ("DOCKER", "KUBERNETES")
    for resource in ("CPUS", "MEMORY_GIB", "GPUS", "SCRATCH_GIB")
}


class Resources(Section):
    """What a step gets when it runs in a container. Unset: as for `all`, and else what the launcher gives by itself."""

    cpus: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="processors: the limit with docker; the request with kubernetes, unset: 1, and 4 to quantize or serve",
    )
    memory_gib: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="memory limit in GiB; unset: none with docker; with kubernetes 4, and 32 to quantize or serve",
    )
    gpus: Annotated[int, Field(ge=-1)] | None = Field(
        default=None,
        description="number of GPUs; -1 with docker: all GPUs of the container engine's machine; unset: none",
    )
    gpu: str = Field(
        default="",
        description="GPU to plan for (H100, L40S, 96GB, ...), where it is on another machine; empty: this machine's, or the cluster's nodes, are asked",
    )
    scratch_gib: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="limit of a node's disk in GiB, kubernetes only; unset: 20, to download or quantize 100, to serve 200",
    )

    def over(self, others: Resources) -> Resources:
        """These, and for what they leave unset the others."""
        return self.model_copy(update={name: value for name, value in others if getattr(self, name) in {None, ""}})


class ResourcesSettings(Section):
    """The one table of resources, by step, for every launcher that starts containers."""

    all: Resources = Resources()
    download: Resources = Resources()
    quantize: Resources = Resources()
    push: Resources = Resources()
    serve: Resources = Resources()
    evaluate: Resources = Resources()

    def of(self, step: Step) -> Resources:
        """A step's own, and for what they leave unset those of all steps."""
        own: Resources = getattr(self, step)
        return own.over(self.all)


# Requests for a cluster's scheduler where nothing is set.
KUBERNETES_DEFAULTS: Final = ResourcesSettings(
    all=Resources(cpus=1, memory_gib=4, gpus=0, scratch_gib=20),
    download=Resources(scratch_gib=100),
    quantize=Resources(cpus=4, memory_gib=32, scratch_gib=100),
    serve=Resources(cpus=4, memory_gib=32, scratch_gib=200),
)


class DockerSettings(Section):
    """Steps and services as containers of a Docker engine."""

    host: str | None = Field(
        default=None,
        description="URL of the container engine (unix://, tcp:// or ssh://); unset: DOCKER_HOST, then the local socket",
    )
    project: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")] = Field(
        default="carwright",
        description="name that marks all containers; those of other projects on the same engine are never touched",
    )
    image: str = Field(
        default=f"{IMAGES}/{{target}}:latest",
        description="name of the images; {target} is download, quantize, push, serve-cpu, ..., with GPUs serve-cuda and quantize-cuda",
    )
    network: str = Field(
        default="host",
        description="network of the containers: host for the engine's machine, or the name of a network of the engine",
    )
    extra_hosts: dict[str, str] = Field(
        default={}, description="additional host names inside containers: name to address"
    )
    registry_aliases: dict[str, str] = Field(
        default={},
        description="registries that the container engine reaches under another name: the steps' name to the engine's",
    )
    gpu_kind: Literal["nvidia", "rocm"] = Field(
        default="nvidia", description="vendor of the GPUs in the engine's machine"
    )
    modelcar: Literal["sidecar", "mount"] = Field(
        default="sidecar",
        description="how vLLM reads a modelcar: sidecar, as with KServe; mount, an image mount (Docker 28 or later)",
    )
    step_timeout: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="time limit in seconds for a step's container; unset: none"
    )
    signing_volume: str = Field(
        default="",
        description="volume of the engine with signing keys (NAME.key, NAME.password); only the container that promotes mounts it",
    )

    def outside(self, reference: str) -> str:
        """An image by the name that its registry has outside of the steps' network: on the engine's machine, for a person."""
        registry, slash, rest = reference.partition("/")
        return self.registry_aliases.get(registry, registry) + slash + rest


class KubernetesSettings(Section):
    """Steps as Jobs of a Kubernetes cluster, and deployments to KServe."""

    kubeconfig: Path | None = Field(
        default=None, description="unset: the pod's service account, then KUBECONFIG, then ~/.kube/config"
    )
    context: str | None = Field(default=None, description="context of the kubeconfig; unset: the current one")
    namespace: str = Field(default="", description="namespace; empty: the context's own")
    image: str = Field(
        default=f"{IMAGES}/{{target}}:latest",
        description="name of the images; {target} is download, quantize, push, serve-cpu, ..., with GPUs serve-cuda and quantize-cuda",
    )
    pull_logins: tuple[str, ...] = Field(
        default=(), description="names of Secrets with logins for the images' registry"
    )
    service_account: str = Field(
        default="carwright-step", description="service account of a step's pod; it needs no permissions"
    )
    signing_secret: str = Field(
        default="",
        description="Secret of the namespace with signing keys (NAME.key, NAME.password); only the pod that promotes mounts it, and "
        "the flow never reads it",
    )
    signing_account: str = Field(
        default="",
        description="service account of the pod that promotes, which a key management service lets sign; empty: that of every step",
    )
    gpu_resource: str = Field(
        default="nvidia.com/gpu", description="resource name of a GPU in the cluster; its taint is tolerated"
    )
    node_selector: dict[str, str] = Field(default={}, description="labels of nodes on which steps may run")
    pending_timeout: Annotated[float, Field(gt=0)] = Field(
        default=900.0,
        description="seconds within which a step's pod must start; it may lack a suitable node or an image",
    )
    patience: Annotated[float, Field(ge=0)] = Field(
        default=60.0,
        description="seconds to wait for an API server that is away, as when it restarts, and for a deletion to end",
    )
    step_timeout: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="time limit in seconds for a step; unset: none"
    )
    service_timeout: Annotated[int, Field(gt=0)] = Field(
        default=86400, description="time limit in seconds for a served model that is not kept"
    )
    ttl: Annotated[int, Field(ge=0)] = Field(
        default=3600, description="seconds for which a finished Job and its log are kept"
    )
    owner_pod: str = Field(default="", description="pod of the flow; removing it removes its steps")
    owner_uid: str = Field(default="", description="uid of that pod; the work pool in infra/kubernetes sets both")


class DeploySettings(Section):
    """The engines' images that `carwright render` and `deploy` write for GPUs, and the model card names."""

    docker_image: str = Field(
        default="docker.io/vllm/vllm-openai:v0.30.0"
        "@sha256:8a69ffad015f138d7170c4ddc429e230a3bc1c1719f67e14324749df200a4b90",
        description="vLLM's image for GPUs in what docker and compose are given",
    )
    podman_image: str = Field(
        default="registry.redhat.io/rhaiis/vllm-cuda-rhel9:3.3.0",
        description="vLLM's image for GPUs with podman: Red Hat AI Inference Server",
    )
    kserve_image: str = Field(
        default="registry.redhat.io/rhoai/odh-vllm-cuda-rhel9:v2.25.9",
        description="vLLM's image for GPUs in a KServe runtime and its pod: OpenShift AI",
    )


class PlacementSettings(Section):
    """Steps that run on other machines, as child runs of a deployment of the flow `run-step`; empty: where the flow runs."""

    download: str = Field(default="", description="deployment that runs download, such as run-step/cpu")
    quantize: str = Field(default="", description="deployment that runs quantize, such as run-step/gpu")
    push: str = Field(default="", description="deployment that runs push and promote")
    serve: str = Field(default="", description="deployment that serves models, such as run-step/gpu")
    evaluate: str = Field(default="", description="deployment that runs evaluate")
    runs: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="number of child runs that share one quantization, usually the number of GPUs in the work pool",
    )
    patience: Annotated[float, Field(ge=0)] = Field(
        default=10.0, description="seconds to wait for a live worker of the work pool, at each of three attempts"
    )
    start_timeout: Annotated[float, Field(gt=0)] = Field(
        default=900.0, description="seconds for a worker to start a child run, including pulling its image"
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

    models: Path | None = Field(default=None, description="file with the watched models; unset: infra/models.yaml")
    interval: Annotated[float, Field(gt=0)] = Field(default=3600.0, description="seconds between two scans")
    parallel: Annotated[int, Field(ge=1, le=32)] = Field(default=8, description="models scanned at once")
    lost_after: Annotated[float, Field(ge=0)] = Field(
        default=600.0,
        description="seconds after which a change without a run is announced again; the wait doubles, up to a day",
    )
    index: bool = Field(
        default=False, description="also ask pip's package index for newer versions of the tools that affect outputs"
    )


class TrustSettings(Section):
    """Which models may be served."""

    policy: Path | None = Field(
        default=None,
        description="policy file that a model must pass before it is served or deployed; unset: every model is served",
    )


class QuantizeSettings(Section):
    """Quantizing without containers."""

    python: Path | None = Field(
        default=None,
        description="Python with a torch, llm-compressor and compressed-tensors (as locked) of your own to quantize with; "
        "unset: the locked ones",
    )


class FlowServeSettings(ServeSettings):
    """vLLM as a service, with whom it serves and where."""

    model_config = ConfigDict(extra="forbid")

    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="port of the served model; 0 takes a free one"
    )
    ready_timeout: Annotated[float, Field(gt=0)] = Field(
        default=600.0, description="seconds until vLLM must answer its health check"
    )
    advertise: str = Field(
        default="",
        description="host name or address under which other machines reach a model served here; empty: the listening address",
    )
    gpu_image: Literal["serve-cuda", "serve"] = Field(
        default="serve-cuda",
        description="image that serves on GPUs in containers: serve-cuda, of locked wheels; serve, made from upstream's image",
    )
    engine: str = Field(
        default="",
        description="name and version of the inference server, part of the name of measurements (vllm 0.23.0); empty: the CPU build of "
        "the lock, on GPUs its CUDA build or, with gpu_image serve, that image's name",
    )


class FlowEvaluateSettings(EvaluateSettings):
    """Measuring, with how much is asked of the measured model."""

    model_config = ConfigDict(extra="forbid")

    concurrency: int = Field(default=8, ge=1, description="concurrent requests to the measured model")
    request_timeout: float = Field(default=300.0, gt=0, description="time limit in seconds for an answer of the model")
    attempts: int = Field(default=4, ge=1, description="attempts per request that fails temporarily")


class Settings(StepSettings):
    """All of it. `carwright settings` prints the values in force, with secrets masked."""

    model_config = SettingsConfigDict(toml_file=FILE)
    remedy: ClassVar[str] = (
        "change the variable CARWRIGHT_<NAME>, the file of that name or the entry in carwright.toml; `carwright settings` prints them all"
    )

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="what quantizes and serves without containers: cuda, this machine's NVIDIA GPUs; auto: if there are any that "
        "the locked builds run on",
    )
    quantize: QuantizeSettings = QuantizeSettings()
    serve: FlowServeSettings = FlowServeSettings()
    evaluate: FlowEvaluateSettings = FlowEvaluateSettings()
    watch: WatchSettings = WatchSettings()
    placement: PlacementSettings = PlacementSettings()
    launcher: Literal["process", "docker", "kubernetes"] = Field(
        default="process",
        description="how steps are started: process, in environments on this machine; docker or kubernetes, from images",
    )
    resources: ResourcesSettings = ResourcesSettings()
    docker: DockerSettings = DockerSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    deploy: DeploySettings = DeploySettings()
    trust: TrustSettings = TrustSettings()
    overlap_gb: Annotated[float, Field(ge=0)] = Field(
        default=4.0,
        description="size in GB from which a checkpoint is quantized while it downloads, and pushed while it is quantized",
    )
    pip_extra_index_url: Secret = Field(
        default=None,
        description="URL of an additional package index for step environments and images",
    )
    pip_pytorch_index_url: SecretStr = Field(
        default=SecretStr(PYTORCH_INDEX),
        description="URL of the index for CPU builds of PyTorch (`+cpu`), used if no other index has them",
    )
    approval_timeout: Annotated[int, Field(ge=1)] = Field(
        default=86_400, description="seconds that a release which asks for approval waits for a person"
    )
    notify_webhook: Secret = Field(default=None, description="URL that receives a JSON POST when a flow run fails")

    @classmethod
    def files(cls) -> Iterable[tuple[PydanticBaseSettingsSource, Iterable[GivenName]]]:
        toml = TomlConfigSettingsSource(cls)
        return [(toml, names_in_tables(toml.toml_data, FILE, cls))]

    @classmethod
    def check_names(cls, given: Iterable[GivenName]) -> None:
        names = list(given)
        refuse_unknown(names, cls, ignored=COMPOSE, renamed=_RENAMED, remedy=cls.remedy)
        refuse_from_file(names)

    @classmethod
    def check_variables(cls) -> None:
        """Raises BadInput for variables that nobody would read; for a program that reads no settings but is given them."""
        cls.check_names(names_of_variables(EnvSettingsSource(cls).env_vars))
