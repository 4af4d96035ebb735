"""What a step may know: the tree of its settings, which step is handed which, and how settings are read.

Every setting is an environment variable (`CARWRIGHT_STORE__BUCKET`) or, for secrets, a file of the variable's name under
/run/secrets. They are read at an entry point, passed down, and never looked up again. What only the flow side knows is in
infra/settings.py, whose tree begins with this one and may also be given in a file carwright.toml.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from containers.contract import Step, StepRequest, StoreLocation
from containers.errors import BadInput, faults
from containers.setting_names import PREFIX, GivenName, names_of_variables, refuse_unknown, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SECRETS = Path("/run/secrets")

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
    )
)

# What a step passes over, since the flow side alone reads it: sections, and settings by themselves. A step refuses every
# other name that it does not know: whoever gave it wants it obeyed.
FLOW_SIDE: Final = tuple(
    PREFIX + name
    for name in (
        *("LAUNCHER", "DOCKER", "KUBERNETES", "RESOURCES", "PLACEMENT", "WATCH"),
        *("OVERLAP_GB", "PIP_EXTRA_INDEX_URL", "PIP_PYTORCH_INDEX_URL", "NOTIFY_WEBHOOK"),
        *("SERVE__PORT", "SERVE__READY_TIMEOUT", "SERVE__ADVERTISE", "SERVE__ENGINE"),
        *("EVALUATE__CONCURRENCY", "EVALUATE__REQUEST_TIMEOUT", "EVALUATE__ATTEMPTS"),
    )
)

# The sections and settings that each step is handed, beside where it writes and how it logs.
_EVERY_STEP: Final = ("home", "cache", "log_format")
STEP_SETTINGS: Final[Mapping[Step, tuple[str, ...]]] = {
    Step.DOWNLOAD: ("store", "source", "hub_endpoint", "hub_token"),
    Step.QUANTIZE: ("store",),
    Step.PUSH: ("store", "registry", "docker_config", "busybox"),
    Step.SERVE: ("store", "registry", "docker_config", "serve"),
    Step.EVALUATE: ("store", "registry", "docker_config", "evaluate", "hub_endpoint", "hub_token"),
}
_OF_REGISTRIES: Final = ("registry", "docker_config")


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

    @property
    def location(self) -> StoreLocation:
        """The part that may be written down."""
        return StoreLocation(endpoint=self.endpoint, bucket=self.bucket, prefix=self.prefix, region=self.region)


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
    """vLLM as a service: what the step does. The flow side adds whom it serves, and where."""

    model_config = ConfigDict(extra="ignore")  # FLOW_SIDE has more of this section

    kv_cache_gib: Annotated[int, Field(ge=1)] = Field(
        default=1, description="GiB of memory for the KV cache of vLLM's CPU backend"
    )
    keep_gb: Annotated[float, Field(ge=0)] = Field(
        default=50.0,
        description="GB of unpacked models that are kept for the next run; more only while they are served",
    )


class EvaluateSettings(Section):
    """Measuring: what the step does. The flow side adds how much is asked of an endpoint, which a request carries."""

    model_config = ConfigDict(extra="ignore")  # FLOW_SIDE has more of this section

    data: Path | None = Field(
        default=None,
        description="folder with data sets as the hub has them (FOLDER/openai/gsm8k); what is not there comes from the hub",
    )
    humaneval_plus: Path | None = Field(
        default=None,
        description="file with the problems of HumanEval+ (JSON lines, EvalPlus's format)",
    )
    sandbox: Literal["auto", "bubblewrap", "container"] = Field(
        default="auto",
        description="what generated code runs in: bubblewrap, or the limits of the step's own container; auto takes "
        "bubblewrap where it works",
    )


class StepSettings(BaseSettings):
    """All that steps may know; what one of them is handed is less."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
        extra="forbid",
        populate_by_name=True,
    )
    remedy: ClassVar[str] = (
        "change the variable CARWRIGHT_<NAME>; in a container of a step: its image may be of another version "
        "(`carwright images load`)"
    )

    def __init__(self, **values: Any) -> None:
        """Raises BadInput, which names the setting, for a value that does not fit and for an unknown name."""
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
        """Files that are read, too, each with the names in it. A step is told everything, and reads none."""
        return ()

    @classmethod
    def check_names(cls, given: Iterable[GivenName]) -> None:
        """Raises BadInput for names that nobody would read."""
        refuse_unknown(given, cls, ignored=COMPOSE + FLOW_SIDE, remedy=cls.remedy)


def step_variables(settings: StepSettings, request: StepRequest) -> tuple[dict[str, str], dict[str, str]]:
    """What a launcher hands to a step, as environment variables: plain settings, and apart from these the secrets.

    Only what the step uses, and of that only what anybody has set: the defaults are known to the step, and an image of
    another version meets no name that nobody uses.
    """
    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    parts = _parts(request)
    for one in settings_of(StepSettings):
        if one.path[0] not in parts or not one.is_set(settings):
            continue
        value = one.value(settings)
        if isinstance(value, SecretStr):
            secret[one.variable] = value.get_secret_value()
        elif isinstance(value, tuple):
            plain[one.variable] = json.dumps(value)
        elif value is not None:
            plain[one.variable] = str(value)
    return plain, secret


def _parts(request: StepRequest) -> tuple[str, ...]:
    parts = _EVERY_STEP + STEP_SETTINGS[request.step]
    # Of the registries evaluate wants nothing but a tokenizer; where it has none to get, no login lies beside generated code.
    if request.step is Step.EVALUATE and not request.options.get("tokenizer_reference"):
        return tuple(part for part in parts if part not in _OF_REGISTRIES)
    return parts


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
