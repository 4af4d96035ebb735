"""What a step gets to see in its container: files, settings, secrets, logins, limits.

Everything lies in one anonymous volume at /run, since the rest is read only: `/run/carwright/request.json`,
`result.json`, `scratch` and `home`; and the step's secrets as files under /run/secrets, for its user alone.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from containers.contract import Step
from containers.errors import BadInput
from containers.oci.credentials import find_credentials
from containers.oci.reference import Reference
from containers.process import inherited
from containers.signing_settings import identity_token
from containers.step_variables import parts_of, step_variables
from flows.runners.docker import seccomp
from flows.runners.step_container import LOGINS, SECRETS, WORK, makes_user_namespaces, refuse_key_folder
from flows.runners.step_protocol import REQUEST, RESULT
from infra.container_engine import Spec
from infra.container_engine.ownership import owner
from infra.hardening import pids

if TYPE_CHECKING:
    from containers.contract import StepRequest
    from infra.settings import Settings

VOLUME: Final = "/run"
SIGNING: Final = "/run/signing"  # where a volume or a Secret with keys is mounted, to promote alone
_NCCL: Final = "NCCL_"
_FLOW_RUN: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # Prefect's id, in a run of a worker


def step_spec(settings: Settings, request: StepRequest, image: str, name: str = "") -> Spec:
    """The container of a step: everything about it but the files that are put into it."""
    docker, step = settings.docker, request.step
    resources = settings.resources.of(step)
    return Spec(
        name=name or f"{docker.project}-{step}-{secrets.token_hex(4)}",
        image=image,
        entrypoint="python3",
        command=("-m", f"containers.{step}", "--request", f"{WORK}/{REQUEST}", "--result", f"{WORK}/{RESULT}"),
        labels=labels(request),
        environment=environment(settings, request, docker.signing_volume) | _logins_variable(settings, request),
        network=docker.network,
        extra_hosts=docker.extra_hosts,
        volumes=(VOLUME,),
        readable=_folders(request),
        volumes_by_name={docker.signing_volume: SIGNING} if docker.signing_volume and promotes(request) else {},
        security=_security(request),
        pids=pids(resources.gpus),
        memory=int(resources.memory_gib * 2**30) if resources.memory_gib else None,
        cpus=resources.cpus,
        gpus=resources.gpus or 0,
        gpu_kind=docker.gpu_kind,
    )


def labels(request: StepRequest) -> dict[str, str]:
    """Whose container it is, as the sweeper reads it."""
    flow_run = {"flow-run": request.run} if _FLOW_RUN.fullmatch(request.run) else {}
    return {"run": request.run, "step": request.step.value, "owner": owner(), **flow_run}


def promotes(request: StepRequest) -> bool:
    """Whether it is the step that signs."""
    return request.step is Step.PUSH and request.parameters.get("action") == "promote"


def with_identity(settings: Settings, request: StepRequest) -> Settings:
    """The settings to make the parts of one container from: where it signs without a key, with the identity token.

    It is asked for here, once: each part would ask for one of its own, and some issuers give only one. Raises BadInput.
    """
    sign = settings.sign
    if sign.keyless is None or not promotes(request):
        return settings
    given = {"identity_token": SecretStr(identity_token(sign)), "identity_token_file": None}
    return settings.model_copy(update={"sign": sign.model_copy(update=given)})


def environment(settings: Settings, request: StepRequest, keys: str = "") -> dict[str, str]:
    """The settings that the step needs and that are no secrets, less what concerns this machine alone; and to serve on GPUs
    what this process was told about how they talk to each other (NCCL_P2P_DISABLE=1 where cards cannot do it directly).

    `keys` names the volume or Secret with keys that is mounted where the step promotes.
    """
    if promotes(request):
        refuse_key_folder(settings)
    here = settings.model_copy(
        update={
            "log_format": "json",
            "busybox": None,
            "docker_config": None,
            "serve": settings.serve.model_copy(update={"python": None}),
            "evaluate": settings.evaluate.model_copy(update={"load_python": None}),
            "store": settings.store.model_copy(update={"folder": None, "direct": False}),
            "registry": settings.registry.model_copy(update={"auth_file": None}),
            "sign": settings.sign.model_copy(update={"folder": Path(SIGNING) if keys else None}),
        }
    )
    on_gpus = request.step is Step.SERVE and settings.resources.of(request.step).gpus
    told = {name: value for name, value in inherited(_NCCL).items() if name.startswith(_NCCL)} if on_gpus else {}
    return step_variables(here, request)[0] | {
        **told,
        "CARWRIGHT_HOME": f"{WORK}/home",
        "CARWRIGHT_CACHE": f"{WORK}/home/cache",
        "HOME": f"{WORK}/home",
        "TMPDIR": f"{WORK}/scratch",
        "PYTHONUNBUFFERED": "1",
    }


def payload(settings: Settings, request: StepRequest) -> dict[str, bytes | None]:
    """What is put into the volume: the request, empty folders, and the secrets that this very step needs."""
    secret = step_variables(settings, request)[1]
    if "hub_token" in parts_of(request) and settings.hub_token is None:
        from huggingface_hub import get_token  # of the hub's own login, which the container does not have

        secret |= {"CARWRIGHT_HUB_TOKEN": token} if (token := get_token()) else {}
    if _logins_variable(settings, request):
        secret[LOGINS] = json.dumps({"auths": _logins(settings, request)})
    folders = ("carwright", "carwright/alive", "carwright/home", "carwright/scratch", "secrets")
    return {
        **dict.fromkeys(folders),
        f"carwright/{REQUEST}": (request.model_dump_json(indent=2) + "\n").encode(),
        **{f"secrets/{name}": value.encode() for name, value in secret.items()},
    }


def _logins_variable(settings: Settings, request: StepRequest) -> dict[str, str]:
    if _logins(settings, request):
        return {"CARWRIGHT_REGISTRY__AUTH_FILE": f"{SECRETS}/{LOGINS}"}
    return {}


def _logins(settings: Settings, request: StepRequest) -> dict[str, dict[str, str]]:
    """The logins of this machine for the registries that the request names, in the format of Docker's config.json."""
    if settings.registry.username is not None or "registry" not in parts_of(request):
        return {}
    found = {}
    named = [request.parameters.get(name) for name in ("target", "reference", "base")]
    for text in (*named, request.options.get("tokenizer_reference")):
        if not isinstance(text, str) or "/" not in text or text.startswith("oci:"):
            continue
        where = Reference.parse(text)
        login = find_credentials(where.registry, where.repository, settings)
        if login is not None:
            secret = login.secret.get_secret_value()
            pair = base64.b64encode(f"{login.username}:{secret}".encode()).decode()
            found[f"{where.registry}/{where.repository}"] = (
                {"auth": pair} if login.username else {"identitytoken": secret}
            )
    return found


def refuse_folders(request: StepRequest) -> None:
    """Raises BadInput for a target that is a folder of this machine, which no container could write or serve from."""
    for name in ("target", "reference"):
        text = str(request.parameters.get(name) or "")
        if text.startswith("oci:"):
            raise BadInput(
                f"{text} is a folder of this machine, and the steps run in containers",
                remedy="push to a registry (--to registry/repository), or use the process launcher",
            )


def _folders(request: StepRequest) -> tuple[str, ...]:
    """Folders that the request reads a checkpoint from."""
    source = str(request.parameters.get("source") or "")
    named = source.removeprefix("file://").partition("#")[0] if source.startswith("file://") else ""
    return tuple(folder for folder in (named, str(request.options.get("folder") or "")) if folder.startswith("/"))


def _security(request: StepRequest) -> tuple[str, ...]:
    if makes_user_namespaces(request):
        return (f"seccomp={seccomp.profile()}", "apparmor=unconfined")
    return ()
