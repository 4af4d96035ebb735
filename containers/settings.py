"""The settings of the steps: the tree, and how settings are read. Which step gets which: `containers.step_variables`.

Every setting is an environment variable (`CARWRIGHT_STORE__BUCKET`) or, for secrets, a file of the variable's name under
/run/secrets. They are read at an entry point and passed down. Settings of the flow side only are in infra/settings.py,
whose tree extends this one and may also be given in a file carwright.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from containers.contract import StoreLocation
from containers.errors import BadInput, faults
from containers.setting_names import PREFIX, GivenName, names_of_variables, refuse_unknown
from containers.setting_types import EndpointUrl, Secret, Token
from containers.signing_settings import SigningSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

SECRETS: Final = Path("/run/secrets")  # a file for each secret of a step in a container

# Variables of infra/compose.yaml and infra/compose.gpu.yaml, which are no settings.
COMPOSE: Final = tuple(
    PREFIX + name
    for name in (
        "PROJECT",
        "IMAGES",
        "TAG",
        "SOCKET",
        "GID",
        "PORT",
        "REGISTRY_PORT",
        "STORE_PORT",
        "API",
        "API_NAMES",
        "SECRETS",
        "DATABASE",
        "SIGNING_VOLUME",
        "BASE",
        "BUILD_NETWORK",
        "CA_CERTIFICATES",
    )
)

# What a step passes over, since the flow side alone reads it: sections, and settings by themselves. A step refuses every
# other name that it does not know: whoever gave it wants it obeyed.
FLOW_SIDE: Final = tuple(
    PREFIX + name
    for name in (
        *(
            "LAUNCHER",
            "DEVICE",
            "DOCKER",
            "KUBERNETES",
            "DEPLOY",
            "QUANTIZE",
            "RESOURCES",
            "PLACEMENT",
            "WATCH",
            "TRUST",
        ),
        *("OVERLAP_GB", "PIP_EXTRA_INDEX_URL", "PIP_PYTORCH_INDEX_URL", "NOTIFY_WEBHOOK", "APPROVAL_TIMEOUT"),
        *("SERVE__PORT", "SERVE__READY_TIMEOUT", "SERVE__ADVERTISE", "SERVE__ENGINE", "SERVE__GPU_IMAGE"),
        *("EVALUATE__CONCURRENCY", "EVALUATE__REQUEST_TIMEOUT", "EVALUATE__ATTEMPTS"),
    )
)

Addressing = Literal["auto", "path", "virtual"]
_ADDRESSING: Final = (
    "where the bucket's name stands: path, in the path; virtual, in the host name; auto: path at an endpoint of one's own, else "
    "as AWS has it"
)


class Section(BaseModel):
    """Settings of one concern; an unknown name is refused."""

    model_config = ConfigDict(extra="forbid")


class StoreSettings(Section):
    """The object store. Without an endpoint the embedded server is started."""

    endpoint: EndpointUrl | None = Field(
        default=None,
        description="URL of an S3 endpoint; unset: an embedded server on loopback",
    )
    public_endpoint: EndpointUrl | None = Field(
        default=None,
        description="URL of the endpoint for browsers, for links to reports; unset: the endpoint",
    )
    bucket: str = Field(default="carwright", description="bucket; created if missing")
    prefix: str = Field(default="", description="key prefix inside the bucket")
    region: str = Field(default="us-east-1", description="region name for request signing")
    addressing: Addressing = Field(default="auto", description=_ADDRESSING)
    access_key_id: Secret = Field(default=None, description="unset: the usual AWS credential chain")
    secret_access_key: Secret = Field(default=None, description="secret of the access key")
    folder: Path | None = Field(
        default=None,
        description="folder of the embedded server, which sets this; its free space is checked before a write",
    )
    direct: bool = Field(
        default=False,
        description="use that folder itself instead of the server; set where steps are processes of its machine",
    )

    @property
    def location(self) -> StoreLocation:
        """The part that may be written down."""
        return StoreLocation(endpoint=self.endpoint, bucket=self.bucket, prefix=self.prefix, region=self.region)


class RegistrySettings(Section):
    """Registries. The user name is for one of them; for others the login files and helpers of Docker and Podman are used."""

    host: str = Field(
        default="", description="registry, with its port if any, that the user name is for: no other one gets it"
    )
    username: str | None = Field(default=None, description="user name for the registry `host`")
    password: Secret = Field(default=None, description="password or token of that user")
    auth_file: Path | None = Field(
        default=None, description="login file in Docker's format; unset: the login files of docker and podman"
    )
    plain_http: tuple[str, ...] = Field(
        default=(), description="hosts (with port) to reach without TLS; loopback is always allowed"
    )
    parallel: Annotated[int, Field(ge=1, le=32)] = Field(default=4, description="blobs transferred at once")
    timeout: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="seconds without data after which a connection counts as broken"
    )
    attempts: Annotated[int, Field(ge=1)] = Field(default=7, description="attempts per request that fails temporarily")
    layer_bytes: Annotated[int, Field(ge=0)] = Field(
        default=0, description="maximum bytes in one layer; 0: the known limit of the registry, if any"
    )


class HttpSettings(Section):
    """How long and how slowly registries, hubs and endpoints may send, so that none of them holds a step for ever."""

    deadline: Annotated[float, Field(gt=0)] = Field(
        default=300.0,
        description="time limit in seconds for an answer that is not a file: a manifest, a listing, a token",
    )
    min_rate: Annotated[float, Field(ge=0)] = Field(
        default=1000.0, description="least bytes per second of a file's transfer, measured over `rate_window`; 0: any"
    )
    rate_window: Annotated[float, Field(gt=0)] = Field(default=60.0, description="seconds over which it is measured")


class SourceSettings(Section):
    """The S3 endpoint of `s3://bucket/prefix` sources, which may differ from the store's."""

    endpoint: EndpointUrl | None = Field(
        default=None, description="URL of the S3 endpoint for s3:// sources; unset: AWS"
    )
    region: str = Field(default="us-east-1", description="region name for request signing")
    addressing: Addressing = Field(default="auto", description=_ADDRESSING)
    unsigned: bool = Field(default=False, description="send no signature, and need no keys: for public buckets")
    access_key_id: Secret = Field(default=None, description="unset: the usual AWS credential chain")
    secret_access_key: Secret = Field(default=None, description="secret of the access key")


class ServeSettings(Section):
    """vLLM as a service, as the step uses it; the flow side adds address and port."""

    model_config = ConfigDict(extra="ignore")  # FLOW_SIDE has more of this section

    python: Path | None = Field(
        default=None,
        description="Python with a vLLM of your own, which then serves without containers; unset: the locked vLLM",
    )
    kv_cache_gib: Annotated[int, Field(ge=1)] = Field(
        default=1, description="GiB of memory for the KV cache of vLLM's CPU backend"
    )
    keep_gb: Annotated[float, Field(ge=0)] = Field(
        default=50.0,
        description="GB of unpacked models to keep for the next run; served models may exceed it",
    )


class EvaluateSettings(Section):
    """Measuring, as the step uses it; the flow side adds concurrency and timeouts, which travel in the request."""

    model_config = ConfigDict(extra="ignore")  # FLOW_SIDE has more of this section

    api_key: Token = Field(default=None, description="key of a measured endpoint that is not served by Carwright")
    api_key_for: EndpointUrl | None = Field(
        default=None, description="URL of the endpoint that the key is for: no other one gets it"
    )
    data: Path | None = Field(
        default=None,
        description="folder with data sets in the hub's layout (FOLDER/openai/gsm8k); others come from the hub",
    )
    humaneval_plus: Path | None = Field(
        default=None, description="file with the problems of HumanEval+ (JSON lines, EvalPlus's format)"
    )
    sandbox: Literal["auto", "bubblewrap", "container"] = Field(
        default="auto",
        description="sandbox for generated code: bubblewrap, limits of the step's own container, or auto, the first that works",
    )
    load_python: Path | None = Field(
        default=None, description="Python with a vLLM whose load generator measures speed; unset: the one that serves"
    )


class StepSettings(BaseSettings):
    """The settings of all steps; each step gets only a part of them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
        extra="forbid",
        populate_by_name=True,
    )
    remedy: ClassVar[str] = (
        "change the variable CARWRIGHT_<NAME>; in a container of a step: its image may be of another version "
        "(`carwright images load`)"
    )

    def __init__(self, **values: Any) -> None:
        """Raises BadInput, naming the setting, for an invalid value or an unknown name."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            # The cause would show the value, which may be a secret.
            raise BadInput(f"invalid settings: {faults(error)}", remedy=self.remedy) from None
        except SettingsError as error:
            raise BadInput(f"invalid settings: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"carwright.toml is not TOML: {error}") from error

    home: Path = Field(
        default=Path(".carwright"),
        description="folder for the state of runs: store, images, logs, services",
    )
    cache: Path = Field(
        default=Path("~/.cache/carwright"),
        description="folder that all runs share: step environments and the demo model",
    )
    store: StoreSettings = StoreSettings()
    source: SourceSettings = SourceSettings()
    registry: RegistrySettings = RegistrySettings()
    http: HttpSettings = HttpSettings()
    sign: SigningSettings = SigningSettings()
    serve: ServeSettings = ServeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    busybox: Path | None = Field(
        default=None,
        description="file with the pinned busybox, or its Debian package, for the base `busybox`; unset: searched for",
    )
    docker_config: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("CARWRIGHT_DOCKER_CONFIG", "DOCKER_CONFIG", "docker_config"),
        description="folder of Docker's config.json; unset: ~/.docker",
    )
    hub_endpoint: EndpointUrl | None = Field(
        default=None,
        validation_alias=AliasChoices("CARWRIGHT_HUB_ENDPOINT", "HF_ENDPOINT", "hub_endpoint"),
        description="URL of a Hugging Face hub; unset: the public one",
    )
    hub_token: Token = Field(
        default=None,
        validation_alias=AliasChoices("CARWRIGHT_HUB_TOKEN", "HF_TOKEN", "hub_token"),
        description="hub token for gated models; unset: the token file of the hub's own client",
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="format of the steps' log lines; auto: text on a terminal, JSON elsewhere"
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
        """First wins: arguments, environment, mounted secrets (files named like the variables), further files."""
        assert isinstance(env_settings, EnvSettingsSource)
        secrets, files = NestedSecretsSettingsSource(file_secret_settings), cls.files()
        cls.check_names(
            [
                *names_of_variables(env_settings.env_vars),
                *names_of_variables(secrets.env_vars, where=", ".join(map(str, secrets.secrets_paths))),
                *(name for _, names in files for name in names),
            ]
        )
        return (init_settings, env_settings, secrets, *(source for source, _ in files))

    @classmethod
    def files(cls) -> Iterable[tuple[PydanticBaseSettingsSource, Iterable[GivenName]]]:
        """Further files to read, each with the names in it. A step reads none: it gets everything from its launcher."""
        return ()

    @classmethod
    def check_names(cls, given: Iterable[GivenName]) -> None:
        """Raises BadInput for unknown names."""
        refuse_unknown(given, cls, ignored=COMPOSE + FLOW_SIDE, remedy=cls.remedy)


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
