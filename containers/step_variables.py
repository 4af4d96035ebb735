"""Which step gets which settings, and the environment variables that hand them over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from containers.contract import Step, StepRequest
from containers.setting_names import settings_of
from containers.settings import StepSettings
from containers.signing_settings import hand_over_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

# The sections and settings that each step gets, besides where it writes and how it logs.
_EVERY_STEP: Final = ("home", "cache", "log_format")
STEP_SETTINGS: Final[Mapping[Step, tuple[str, ...]]] = {
    Step.DOWNLOAD: ("store", "source", "hub_endpoint", "hub_token", "http"),
    Step.QUANTIZE: ("store",),
    Step.PUSH: ("store", "registry", "docker_config", "http", "busybox", "sign"),
    Step.SERVE: ("store", "registry", "docker_config", "http", "serve"),
    Step.EVALUATE: ("store", "registry", "docker_config", "http", "evaluate", "hub_endpoint"),
}
_STORE: Final = frozenset({"store"})
_SIGNING: Final = frozenset({"sign"})
_OF_REGISTRIES: Final = frozenset({"registry", "docker_config"})

# A step that uses the store's folder itself needs no keys. One that serves a modelcar may find the files of its layers there.
_PLACE_OF_STORE: Final = (("store", "folder"), ("store", "direct"))
_KEYS_OF_STORE: Final = (("store", "access_key_id"), ("store", "secret_access_key"))


def step_variables(settings: StepSettings, request: StepRequest) -> tuple[dict[str, str], dict[str, str]]:
    """The environment variables that a launcher passes to a step: plain settings, and separately the secrets.

    They include only settings that the step uses and that are set: the step knows the defaults, and an image of another
    version does not meet unknown names.
    """
    plain: dict[str, str] = {}
    secret: dict[str, str] = {}
    parts = parts_of(request)
    here = settings.store.direct
    for one in settings_of(StepSettings):
        wanted = one.path[0] in parts or (here and _takes_a_modelcar(request) and one.path in _PLACE_OF_STORE)
        if not wanted or not one.is_set(settings) or (here and one.path in _KEYS_OF_STORE):
            continue
        value = one.value(settings)
        if isinstance(value, SecretStr):
            secret[one.variable] = value.get_secret_value()
        elif isinstance(value, tuple):
            plain[one.variable] = json.dumps(value)
        elif value is not None:
            plain[one.variable] = str(value)
    hand_over_keys(plain, secret)
    return plain, secret


def _takes_a_modelcar(request: StepRequest) -> bool:
    fetches = request.step is Step.SERVE and request.options.get("stage") not in {"serve", "compare"}
    return fetches and bool(request.parameters.get("reference"))


def parts_of(request: StepRequest) -> tuple[str, ...]:
    """The sections and settings that this very request needs: no secret goes to a step that has no use for it."""
    return tuple(part for part in _EVERY_STEP + STEP_SETTINGS[request.step] if part not in _unused(request))


def _unused(request: StepRequest) -> frozenset[str]:
    if request.step is Step.EVALUATE and not request.options.get("tokenizer_reference"):
        return _OF_REGISTRIES  # it reads a tokenizer there and nothing else, and it runs generated code
    if request.step is Step.SERVE:
        if request.options.get("folder") or request.options.get("stage") in {"serve", "compare"}:
            return _STORE | _OF_REGISTRIES  # the model is there: what reads it and answers for it has no secret
        return _STORE if request.parameters.get("reference") else _OF_REGISTRIES
    if request.step is Step.PUSH and request.parameters.get("action") != "promote":
        return _SIGNING
    return frozenset()
