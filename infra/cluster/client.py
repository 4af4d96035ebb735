"""The connection: objects come and go as plain dictionaries.

What the API server refuses becomes BadInput or Temporary by its cause (`infra.cluster.refusals`). A server that answered
before and is away, because it restarts or is overrun, is waited for by every call, `kubernetes.patience` seconds long: each of
them can be made twice.
"""

from __future__ import annotations

import ssl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import httpx2
from lightkube import ApiError, Client
from lightkube.core.exceptions import ConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event, Node, Pod, Secret
from lightkube.types import CascadeType, PatchType

from containers.errors import BadInput, Temporary
from infra.cluster.kubeconfig import UNREADABLE, authority, place, read
from infra.cluster.refusals import Absent, Away, Exists, StillThere, conflict, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightkube.config.kubeconfig import SingleConfig

    from infra.settings import KubernetesSettings

T = TypeVar("T")

MANAGER: Final = "carwright"  # by which server-side apply knows our fields
_TIMEOUT: Final = 30.0  # seconds for one answer
_PAUSE: Final = 0.5  # seconds between two looks
# Why a container waits, where waiting does not help (kubelet, pkg/kubelet/images and pkg/kubelet/kuberuntime).
CANNOT_START: Final = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ImagePullBackOff")
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
_answered: Final[set[str]] = set()  # addresses of API servers that have answered this process: those are waited for


class Cluster:
    """A connection; several threads may use it. `say` is told when the API server is waited for."""

    def __init__(
        self, config: SingleConfig, settings: KubernetesSettings, namespace: str, say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._client = Client(
            config=config, namespace=namespace or None, field_manager=MANAGER, timeout=httpx2.Timeout(_TIMEOUT)
        )
        self._settings = settings
        self._say = say
        self.namespace: str = self._client.namespace

    @classmethod
    def open(
        cls, settings: KubernetesSettings, namespace: str = "", say: Callable[[str], None] = lambda _: None
    ) -> Self:
        """By the kubeconfig that kubectl would take, or from inside a pod by its service account.

        Raises BadInput when neither is there or one of the files cannot be used; the server is not asked anything yet.
        """
        config = read(settings)
        try:
            return cls(config, settings, namespace or settings.namespace, say)
        except ConfigError as error:
            raise BadInput(f"{place(config)}: {error}", remedy="correct the user's login there") from error
        except (httpx2.InvalidURL, *UNREADABLE) as error:
            raise BadInput(
                f"{place(config)}: the address or a certificate in it cannot be used: {error}",
                remedy="certificates and keys must be PEM, and ...-data its base64: get the kubeconfig again",
            ) from error

    @property
    def found_by(self) -> KubernetesSettings:
        """The settings that find this very place again, whatever the environment says by then."""
        config = self._config
        file = None if config.fname is None else config.fname.absolute()
        context = None if config.fname is None else config.context_name
        return self._settings.model_copy(update={"kubeconfig": file, "context": context, "namespace": self.namespace})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object as the server has it; None when there is none of that name."""
        try:
            return self._asked("read", kind, name, lambda: _plain(self._client.get(_KINDS[kind], name)))
        except Absent:
            return None

    def list(self, kind: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        return self._asked(
            "list", kind, "", lambda: [_plain(one) for one in self._client.list(_KINDS[kind], labels=dict(labels))]
        )

    def why_no_pod(self, uid: str) -> str:
        """The last word of a controller that could not make a pod for the object of that uid; empty where there is none.

        Controllers say it in an event with the reason FailedCreate alone. Who may not read events learns nothing.
        """
        fields = {"involvedObject.uid": uid, "reason": "FailedCreate"}
        try:
            events = self._asked(
                "list", "Event", "", lambda: [_plain(one) for one in self._client.list(Event, fields=dict(fields))]
            )
        except BadInput:
            return ""
        last = max(events, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""), default={})
        return str(last.get("message") or "")

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Make a new object; its name must be one that nobody else takes."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        tries = 0

        def make() -> dict[str, Any]:
            nonlocal tries
            tries += 1
            return _plain(self._client.create(_KINDS[kind].from_dict(manifest)))

        try:
            return self._asked("create", kind, name, make)
        except Exists:
            if tries == 1:
                raise
            # The first answer was lost. A Secret may not be read, and nobody asks for more of it.
            return manifest if kind == "Secret" else (self.get(kind, name) or manifest)

    def apply(self, manifest: dict[str, Any], *, force: bool = False) -> dict[str, Any]:
        """Server-side apply: fields of ours that are not named any more are given up.

        Raises Conflict where another manager has set a field to another value; with `force` it is taken from them.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        return self._asked(
            "apply", kind, name, lambda: _plain(self._client.apply(_KINDS[kind].from_dict(manifest), force=force))
        )

    def patch(self, kind: str, name: str, change: dict[str, Any]) -> dict[str, Any]:
        """A merge patch (RFC 7386)."""
        return self._asked(
            "change",
            kind,
            name,
            lambda: _plain(self._client.patch(_KINDS[kind], name, change, patch_type=PatchType.MERGE)),
        )

    def delete(self, kind: str, name: str, *, wait: bool = True) -> bool:
        """Remove it and what it owns, and see that it is gone; False when it was not there.

        Raises StillThere when its finalizers take too long. Without `wait`, for what this account may not read, nobody looks.
        """
        try:
            self._asked(
                "delete",
                kind,
                name,
                lambda: self._client.delete(_KINDS[kind], name, cascade=CascadeType.BACKGROUND),
            )
        except Absent:
            return False
        if wait:
            self.wait_until_gone(kind, name)
        return True

    def wait_until_gone(self, kind: str, name: str) -> None:
        """Return when an object that is being deleted is gone, or is a new one; raises StillThere."""
        patience = self._settings.patience
        deadline = time.monotonic() + patience
        while (found := self.get(kind, name)) is not None and is_going(found):
            if time.monotonic() > deadline:
                holders = ", ".join(found["metadata"].get("finalizers") or ()) or "its owner"
                raise StillThere(
                    f"{kind} {name} is still being deleted after {patience:.0f} s: {holders} does not let it go",
                    remedy=f"look at it: kubectl -n {self.namespace} get {kind.lower()} {name} -o yaml",
                )
            time.sleep(_PAUSE)

    def log(self, pod: str, container: str, *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
        """Lines of a container that has started, without their ends; with `follow` until it ends.

        Raises Temporary when the connection breaks off.
        """
        if not follow:
            yield from self._asked("read the log of", "Pod", pod, lambda: list(self._lines(pod, container, tail=tail)))
            return
        with self._explained("read the log of", "Pod", pod):
            yield from self._lines(pod, container, follow=True)

    def _lines(self, pod: str, container: str, **options: Any) -> Iterator[str]:
        tail = options.pop("tail", None)
        return iter(self._client.log(pod, container=container, tail_lines=tail, newlines=False, **options))

    def _asked(self, verb: str, kind: str, name: str, call: Callable[[], T]) -> T:
        """The answer; where the server is away, that of a later call."""
        server = self._config.cluster.server
        deadline = time.monotonic() + (self._settings.patience if server in _answered else 0.0)
        said = False
        while True:
            try:
                with self._explained(verb, kind, name):
                    answer = call()
            except Away as error:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                if not said:
                    self._say(f"{error.message}: waiting for up to {self._settings.patience:g} s")
                    said = True
                time.sleep(min(max(_PAUSE, error.pause), left))
            except BadInput as error:
                if isinstance(error.__cause__, httpx2.HTTPStatusError):  # it said no, but it is there
                    _answered.add(server)
                raise
            else:
                _answered.add(server)
                return answer

    @contextmanager
    def _explained(self, verb: str, kind: str, name: str) -> Iterator[None]:
        doing = f"{verb} {kind} {name}".strip()
        try:
            yield
        except httpx2.HTTPStatusError as error:
            raise _explain(doing, kind, error) from error
        except httpx2.HTTPError as error:
            raise self._unreachable(doing, error) from error
        except (ConfigError, OSError) as error:  # of a program or a file that has the login
            raise BadInput(
                f"cannot {doing}: the login in {place(self._config)} does not work: {error}",
                remedy="`kubectl auth whoami` must work with it",
            ) from error
        except (ValueError, KeyError) as error:  # the client's, for what is no answer of Kubernetes
            if isinstance(error.__context__, httpx2.HTTPStatusError):
                raise _explain(doing, kind, error.__context__) from error.__context__
            raise BadInput(
                f"cannot {doing}: what answers at {self._config.cluster.server} is not a Kubernetes API",
                remedy=f"correct the address in {place(self._config)}",
            ) from error

    def _unreachable(self, doing: str, error: httpx2.HTTPError) -> BadInput | Temporary:
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return BadInput(
                    f"cannot {doing}: {self._config.cluster.server} has a certificate that is not trusted: "
                    f"{cause.verify_message}; trusted is {authority(self._config)}",
                    remedy="get the cluster's kubeconfig again, or correct the authority in it; or this machine's clock is wrong",
                )
            if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
                return BadInput(
                    f"cannot {doing}: {self._config.cluster.server} does not speak TLS",
                    remedy=f"correct the address in {place(self._config)}",
                )
        if isinstance(error, httpx2.UnsupportedProtocol):
            return BadInput(
                f"cannot {doing}: {self._config.cluster.server!r} is not the address of a cluster",
                remedy=f"write it as https://host:port in {place(self._config)}",
            )
        return Away(
            f"cannot {doing}: the cluster does not answer ({error or type(error).__name__})",
            remedy="check the address in the kubeconfig and the network",
        )


_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def is_going(value: dict[str, Any]) -> bool:
    """Whether it is being deleted: it no longer counts, and may not be changed into something that stays."""
    return bool(value["metadata"].get("deletionTimestamp"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _explain(doing: str, kind: str, error: httpx2.HTTPStatusError) -> BadInput | Temporary:
    code = error.response.status_code
    told = error.status if isinstance(error, ApiError) else None
    message = (told and told.message) or error.response.text[:200] or str(error)
    if code == 404:
        # A path that the server does not know at all is answered in plain text.
        return _not_found(doing, kind, message) if told and _NO_SUCH_KIND not in message else _no_kind(kind)
    if code == 409 and told:
        if told.reason == "AlreadyExists":
            return Exists(f"cannot {doing}: {message}", remedy="use another name")
        causes = (told.details.causes if told.details else None) or ()
        fields = [(one.field or "", one.message or "") for one in causes if one.reason == "FieldManagerConflict"]
        return conflict(doing, message, fields) if fields else Away(f"cannot {doing}: {message}")
    return _paused(refusal(doing, message, code), error.response)


def _not_found(doing: str, kind: str, message: str) -> BadInput:
    if "namespaces" in message:
        return BadInput(f"cannot {doing}: {message}", remedy="create the namespace, or use another with -n")
    return Absent(f"cannot {doing}: there is none")


def _paused(error: BadInput | Temporary, response: httpx2.Response) -> BadInput | Temporary:
    """With how long an overrun server asks to be left alone (Retry-After: API Priority and Fairness, "429")."""
    if isinstance(error, Away) and (after := response.headers.get("Retry-After", "")).isdigit():
        error.pause = float(after)
    return error


def _no_kind(kind: str) -> BadInput:
    if kind in ("ServingRuntime", "InferenceService"):
        return BadInput(
            f"the cluster does not know {kind}", remedy="install KServe (or OpenShift AI) there: its CRDs are missing"
        )
    return BadInput(f"the cluster does not know {kind}", remedy="Kubernetes 1.24 or later is needed")


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = value.to_dict()
    return plain
