"""One namespace of a Kubernetes cluster, and its nodes: the only module that knows the cluster's client.

Objects come and go as plain dictionaries. What the API server refuses becomes BadInput with what to change; what may go
by (no connection, too many requests, the server's own errors) becomes Temporary.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import httpx2
from lightkube import ApiError, Client, KubeConfig
from lightkube.core.exceptions import ConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Node, Pod, Secret
from lightkube.types import CascadeType, PatchType

from containers.errors import BadInput, Temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.settings import KubernetesSettings

MANAGER: Final = "carwright"  # server-side apply remembers fields by this name
_TIMEOUT: Final = 30.0  # seconds for one answer
_KINDS: Final[dict[str, Any]] = {
    "Job": Job,
    "Secret": Secret,
    "Pod": Pod,
    "Node": Node,
    "Deployment": Deployment,
    "ServingRuntime": create_namespaced_resource("serving.kserve.io", "v1alpha1", "ServingRuntime", "servingruntimes"),
    "InferenceService": create_namespaced_resource(
        "serving.kserve.io", "v1beta1", "InferenceService", "inferenceservices"
    ),
}
_NO_SUCH_KIND: Final = "the server could not find the requested resource"


class Cluster:
    """A connection; several threads may use it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.namespace: str = client.namespace

    @classmethod
    def open(cls, settings: KubernetesSettings, namespace: str = "") -> Self:
        """By the kubeconfig that kubectl would take, or from inside a pod by its service account.

        Raises BadInput when neither is there.
        """
        try:
            config = (
                KubeConfig.from_file(settings.kubeconfig) if settings.kubeconfig is not None else KubeConfig.from_env()
            )
            chosen = config.get(context_name=settings.context)
            if chosen is None:
                raise BadInput(f"the kubeconfig has no context {settings.context!r}")
            name = namespace or settings.namespace or None
            return cls(Client(config=chosen, namespace=name, field_manager=MANAGER, timeout=httpx2.Timeout(_TIMEOUT)))
        except (ConfigError, OSError) as error:
            raise BadInput(
                f"no cluster to talk to: {error}",
                remedy="set KUBECONFIG or CARWRIGHT_KUBERNETES__KUBECONFIG, or run inside the cluster",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object as the server has it; None when there is none of that name."""
        try:
            with _explained("read", kind, name):
                return _plain(self._client.get(_KINDS[kind], name))
        except _Absent:
            return None

    def list(self, kind: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        with _explained("list", kind, ""):
            return [_plain(one) for one in self._client.list(_KINDS[kind], labels=dict(labels))]

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        with _explained("create", kind, name):
            return _plain(self._client.create(_KINDS[kind].from_dict(manifest)))

    def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Server-side apply: fields of ours that are not named any more are given up; a field of others is taken over."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        with _explained("apply", kind, name):
            return _plain(self._client.apply(_KINDS[kind].from_dict(manifest), force=True))

    def patch(self, kind: str, name: str, change: dict[str, Any]) -> dict[str, Any]:
        """A merge patch (RFC 7386)."""
        with _explained("change", kind, name):
            return _plain(self._client.patch(_KINDS[kind], name, change, patch_type=PatchType.MERGE))

    def delete(self, kind: str, name: str) -> bool:
        """Remove it and what it owns; False when it was not there."""
        try:
            with _explained("delete", kind, name):
                self._client.delete(_KINDS[kind], name, cascade=CascadeType.BACKGROUND)
        except _Absent:
            return False
        return True

    def log(self, pod: str, container: str, *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """Lines of a container that has started, without their ends; with `follow` until it ends.

        Raises Temporary when the connection breaks off.
        """
        with _explained("read the log of", "Pod", pod):
            lines = self._client.log(pod, container=container, follow=follow, tail_lines=tail, newlines=False)
            yield from lines


class _Absent(BadInput):
    """There is no object of that name."""


class NotAllowed(BadInput):
    """The account lacks a permission."""


@contextmanager
def _explained(verb: str, kind: str, name: str) -> Iterator[None]:
    what = f"{kind} {name}".strip()
    try:
        yield
    except ApiError as error:
        raise _api_error(verb, what, kind, error) from error
    except httpx2.HTTPStatusError as error:
        code = error.response.status_code
        if code == 404:  # a path that the server does not know at all is answered in plain text
            raise _no_kind(kind) from error
        raise _by_code(
            code, f"the cluster does not allow this account to {verb} {what}: {error.response.text[:200]}"
        ) from error
    except httpx2.HTTPError as error:
        raise Temporary(
            f"cannot {verb} {what}: the cluster does not answer ({error or type(error).__name__})",
            remedy="check the address in the kubeconfig and the network",
        ) from error


def _api_error(verb: str, what: str, kind: str, error: ApiError) -> BadInput | Temporary:
    message = error.status.message or str(error)
    code = error.status.code or error.response.status_code
    if code == 404 and _NO_SUCH_KIND in message:
        return _no_kind(kind)
    if code == 404 and "namespaces" in message:
        return BadInput(f"cannot {verb} {what}: {message}", remedy="create the namespace, or use another with -n")
    if code == 404:
        return _Absent(f"there is no {what}")
    return _by_code(code, f"the cluster does not allow this account to {verb} {what}: {message}")


def _by_code(code: int, message: str) -> BadInput | Temporary:
    if code == 403:
        return NotAllowed(message, remedy="grant the permission: infra/kubernetes/rbac.yaml lists all that are needed")
    if code == 401:
        return BadInput(message, remedy="log in to the cluster again")
    if code in (408, 429) or code >= 500:
        return Temporary(message, remedy="try again later")
    return BadInput(message, remedy="correct the fields that the message names")


def _no_kind(kind: str) -> BadInput:
    if kind in ("ServingRuntime", "InferenceService"):
        return BadInput(
            f"the cluster does not know {kind}", remedy="install KServe (or OpenShift AI) there: its CRDs are missing"
        )
    return BadInput(f"the cluster does not know {kind}", remedy="Kubernetes 1.24 or later is needed")


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = value.to_dict()
    return plain
