"""Which cluster, by whose name and with which certificates: a kubeconfig, or a pod's own service account.

Whatever is wrong with the file, or with one that it names, is BadInput with the file's name.
"""

from __future__ import annotations

import binascii
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from lightkube import KubeConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from containers.errors import BadInput
from containers.process import inherited

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

    from infra.settings import KubernetesSettings

_DEFAULT: Final = "~/.kube/config"
_SET: Final = "set KUBECONFIG or CARWRIGHT_KUBERNETES__KUBECONFIG, or run inside the cluster"
_IN_A_POD: Final = "the pod's service account"
UNREADABLE: Final = (ssl.SSLError, binascii.Error, UnicodeError)  # what certificates that are none end in


def read(settings: KubernetesSettings) -> SingleConfig:
    """The context of the settings, its certificates' files looked at. Raises BadInput."""
    config = (_of_pod() if settings.kubeconfig is None else None) or _of_file(_path(settings))
    path = config.fname or _IN_A_POD
    try:
        chosen = config.get(context_name=settings.context if config.fname else None)
    except ConfigError as error:
        raise BadInput(f"{path}: {error}", remedy="choose one: kubectl config use-context NAME") from error
    except KeyError as error:
        raise BadInput(
            f"{path}: the context names {error}, and there is no cluster or user of that name", remedy="correct it"
        ) from error
    assert chosen is not None  # it is only where a default is asked for
    chosen = chosen._replace(user=chosen.user or User())
    _check_files(chosen)
    return chosen


def _of_pod() -> KubeConfig | None:
    try:
        return KubeConfig.from_service_account()
    except (ConfigError, KeyError):  # this is no pod, or one without a token
        return None


def _of_file(path: Path) -> KubeConfig:
    try:
        return KubeConfig.from_file(path)
    except ConfigError as error:
        raise BadInput(f"no cluster to talk to: {error}", remedy=_SET) from error
    except OSError as error:
        raise BadInput(f"no cluster to talk to: {path}: {error.strerror}", remedy=_SET) from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path} is not a kubeconfig: {_short(error)}", remedy="`kubectl config view` reads it"
        ) from error


def place(config: SingleConfig) -> str:
    """Where it is from, to be named in errors."""
    return str(config.fname) if config.fname is not None else _IN_A_POD


def authority(config: SingleConfig) -> str:
    """What says whose certificates are trusted."""
    if config.cluster.certificate_auth:
        return f"{_absolute(config, config.cluster.certificate_auth)} (certificate-authority in {place(config)})"
    if config.cluster.certificate_auth_data:
        return f"certificate-authority-data in {place(config)}"
    return f"this machine's own certificates ({place(config)} names no certificate-authority)"


def _path(settings: KubernetesSettings) -> Path:
    if settings.kubeconfig is not None:
        return settings.kubeconfig.expanduser()
    given = [one for one in inherited("KUBECONFIG").get("KUBECONFIG", "").split(":") if one]
    if len(given) > 1:
        raise BadInput(
            f"KUBECONFIG names {len(given)} files, and one can be read",
            remedy="name it in CARWRIGHT_KUBERNETES__KUBECONFIG; or put them together: kubectl config view --flatten",
        )
    return Path(given[0] if given else _DEFAULT).expanduser()


def _check_files(config: SingleConfig) -> None:
    user: Any = config.user
    named = {
        "certificate-authority": config.cluster.certificate_auth,
        "client-certificate": user.client_cert,
        "client-key": user.client_key,
        "tokenFile": user.token_file,
    }
    for what, name in named.items():
        if name and not _absolute(config, name).is_file():
            raise BadInput(
                f"{place(config)}: {what}: there is no file {_absolute(config, name)}",
                remedy=f"correct {what}, or get the kubeconfig again",
            )
    if name := named["certificate-authority"]:
        try:
            ssl.create_default_context(cafile=_absolute(config, name))
        except UNREADABLE as error:
            raise BadInput(
                f"{_absolute(config, name)} holds no certificate (certificate-authority in {place(config)}): {error}",
                remedy="it must be PEM: get it again",
            ) from error


def _absolute(config: SingleConfig, name: str) -> Path:
    return Path(config.abs_file(name))


def _short(error: Exception) -> str:
    """In one line; a KeyError's text is a name alone."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())[:200]
