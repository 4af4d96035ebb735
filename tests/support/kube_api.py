"""A small Kubernetes API server on loopback, for the tests of what talks to one: objects, server-side apply, logs.

It knows no schemas. What controllers, scheduler and kubelet would do is a function that tests pass in, called with the
server about 50 times a second. What it does as the real one, and where that is written:

- server-side apply (kubernetes.io, "Server-Side Apply"): a field belongs to those who applied it, which `managedFields`
  lists as FieldsV1; goes when its last owner names it no more; and a value of somebody else's needs `force`, else the answer is
  409 with a cause of the reason FieldManagerConflict for each field. Applying what is not there yet needs the right to create.
- finalizers ("Finalizers"): an object that has some gets a `deletionTimestamp` and is there until the last one is taken off.
- admission ("Admission Controllers"; the words are those of the plug-ins' sources, k8s.io/kubernetes/plugin/pkg/admission and
  k8s.io/apiserver/pkg/admission/plugin): what is refused is answered 403; a controller whose pod is refused goes on trying, and
  says so in an event with the reason FailedCreate ("Error creating: ..."; pkg/controller/controller_utils.go).
- events (core/v1) are found by the field selectors `involvedObject.uid` and `reason`.
- a restart: connections break, new ones are refused; then as before. One that is overrun answers 429 with Retry-After ("API
  Priority and Fairness").
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMESPACE = "models"
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)/(?:namespaces/(?P<namespace>[^/]+)/)?(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<sub>log|proxy))?)?"
)
_SERVED = re.compile(r"/served/(?P<name>[^/]+)/v1/(?P<what>models|completions)")
KINDS = {
    "jobs": "Job",
    "secrets": "Secret",
    "pods": "Pod",
    "nodes": "Node",
    "deployments": "Deployment",
    "servingruntimes": "ServingRuntime",
    "inferenceservices": "InferenceService",
    "events": "Event",
}
_API_VERSIONS = {
    "servingruntimes": "serving.kserve.io/v1alpha1",
    "inferenceservices": "serving.kserve.io/v1beta1",
    "jobs": "batch/v1",
    "deployments": "apps/v1",
}
Refusal = tuple[int, str]  # status and message


@dataclass
class KubeApi:
    """The state. `forbidden` holds (verb, plural); `missing` holds plurals whose CRD is not installed; `served` says
    what answers behind the URL of a service; `logs` has the lines of a pod (of one container,
    under `pod/container`), and None as the last one ends it. `admission` is asked about every object that is to be made or
    applied: with its plural and the object it gives status and message of a refusal, or None. `overrun` is how many requests
    are answered 429 from now on.
    """

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    owners: dict[tuple[str, str], dict[str, set[tuple[str, ...]]]] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    served: dict[str, str] = field(default_factory=dict)
    logs: dict[str, list[str | None]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    rights: set[tuple[str, str]] = field(default_factory=set)
    loses: dict[str, int] = field(default_factory=dict)  # by plural, how many objects are taken, and the answer is lost
    breaks: int = 0  # how often a followed log breaks off after its first lines
    admission: Callable[[str, dict[str, Any]], Refusal | None] = lambda plural, value: None
    overrun: int = 0
    restarts: list[float] = field(default_factory=list)  # seconds to be away, one for each restart
    lock: threading.RLock = field(default_factory=threading.RLock)
    url: str = ""
    _count: int = 0

    def put(self, plural: str, value: dict[str, Any]) -> dict[str, Any]:
        """Store an object as a controller would; the spec's generation grows when the spec has changed."""
        with self.lock:
            key = (plural, value["metadata"]["name"])
            before = self.objects.get(key)
            self._count += 1
            metadata = value["metadata"]
            metadata.setdefault("namespace", NAMESPACE)
            metadata.setdefault("uid", before["metadata"]["uid"] if before else f"uid-{self._count}")
            changed = before is None or before.get("spec") != value.get("spec")
            metadata["generation"] = (before["metadata"]["generation"] if before else 0) + changed
            metadata["resourceVersion"] = str(self._count)
            value.setdefault("kind", KINDS[plural])
            value.setdefault("apiVersion", _API_VERSIONS.get(plural, "v1"))
            self.objects[key] = value
            return value

    def make_pod(self, plural: str, owner: str, pod: dict[str, Any]) -> bool:
        """As the controller of an object does it; False, and an event about that object, where admission refuses the pod."""
        refused = self.admission("pods", pod)
        if refused is None:
            self.put("pods", pod)
            return True
        name = f"{owner}.failed"
        about = {"kind": KINDS[plural], "name": owner, "uid": self.objects[plural, owner]["metadata"]["uid"]}
        event = {"metadata": {"name": name}, "involvedObject": about, "reason": "FailedCreate", "type": "Warning"}
        last = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.put("events", event | {"message": f"Error creating: {refused[1]}", "lastTimestamp": last})
        return False

    def delete(self, plural: str, name: str) -> None:
        """As the DELETE of a client: what has finalizers stays until they are off (`let_go`)."""
        with self.lock:
            metadata = self.objects[plural, name]["metadata"]
            if metadata.get("finalizers"):
                metadata.setdefault("deletionTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            else:
                self.remove(plural, name)

    def let_go(self, plural: str, name: str, finalizer: str) -> None:
        """Take a finalizer off, as its controller does when it has cleaned up."""
        with self.lock:
            metadata = self.objects[plural, name]["metadata"]
            metadata["finalizers"] = [one for one in metadata.get("finalizers", ()) if one != finalizer]
            if not metadata["finalizers"] and "deletionTimestamp" in metadata:
                self.remove(plural, name)

    def remove(self, plural: str, name: str) -> None:
        """With everything that names it as its owner."""
        with self.lock:
            gone = self.objects.pop((plural, name), None)
            self.owners.pop((plural, name), None)
            if gone is None:
                return
            uid = gone["metadata"]["uid"]
            for (kind, child), value in list(self.objects.items()):
                if any(one["uid"] == uid for one in value["metadata"].get("ownerReferences", ())):
                    self.remove(kind, child)

    def names(self, plural: str) -> list[str]:
        with self.lock:
            return sorted(name for kind, name in self.objects if kind == plural)

    def find(self, plural: str, name: str) -> dict[str, Any]:
        return self.objects[plural, name]

    def apply(
        self, plural: str, name: str, wanted: dict[str, Any], manager: str, *, force: bool
    ) -> dict[tuple[str, ...], str]:
        """Server-side apply; the fields in conflict, each with its manager: nothing is changed then."""
        with self.lock:
            key = (plural, name)
            current = copy.deepcopy(self.objects.get(key, {"metadata": {"name": name}}))
            owners = self.owners.setdefault(key, {})
            mine = {path for path, _ in _leaves(wanted)}
            clashes = {
                path: other
                for other, paths in owners.items()
                for path, value in _leaves(wanted)
                if other != manager and path in paths and _at(current, path) != value
            }
            if clashes and not force:
                return clashes
            for path, other in clashes.items():
                owners[other].discard(path)
            for path in owners.get(manager, set()) - mine:
                if not any(path in paths for other, paths in owners.items() if other != manager):
                    _drop(current, path)
            for path, value in _leaves(wanted):
                _set(current, path, value)
            owners[manager] = mine
            current["metadata"]["managedFields"] = [
                {"manager": one, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": _fields(paths)}
                for one, paths in owners.items()
                if paths
            ]
            self.put(plural, current)
            return {}


def _fields(paths: set[tuple[str, ...]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        below = tree
        for key in path:
            below = below.setdefault(f"f:{key}", {})
    return tree


def _leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _leaves(item, (*path, key))
        elif (*path, key) not in {("kind",), ("apiVersion",), ("metadata", "name"), ("metadata", "namespace")}:
            yield (*path, key), item


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _set(value: dict[str, Any], path: tuple[str, ...], item: Any) -> None:
    for key in path[:-1]:
        value = value.setdefault(key, {})
    value[path[-1]] = item


def _drop(value: dict[str, Any], path: tuple[str, ...]) -> None:
    parents = [value]
    for key in path[:-1]:
        parents.append(parents[-1].get(key, {}))
    parents[-1].pop(path[-1], None)
    for parent, key in zip(reversed(parents[:-1]), reversed(path[:-1]), strict=True):
        if not parent.get(key):
            parent.pop(key, None)


class _Handler(BaseHTTPRequestHandler):
    api: KubeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("get")

    def do_POST(self) -> None:
        self._answer("create")

    def do_PATCH(self) -> None:
        self._answer("patch")

    def do_DELETE(self) -> None:
        self._answer("delete")

    def _answer(self, verb: str) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.api.restarts:  # what has come in while it goes down is lost
            self.close_connection = True
            return
        if self.api.overrun:
            self.api.overrun -= 1
            self._status(429, "TooManyRequests", "Too many requests, please try again later.", {"Retry-After": "1"})
            return
        if served := _SERVED.fullmatch(parts.path):
            self._model(served["name"], served["what"])
            return
        if parts.path == "/health":  # a served model's, for tests in which a pod has this server's address
            self._json(200, {})
            return
        match = _PATH.fullmatch(parts.path)
        if match is None or match["plural"] in self.api.missing:
            self._send(404, b"404 page not found\n", "text/plain; charset=utf-8")
            return
        plural, name = match["plural"], match["name"]
        verb = "list" if verb == "get" and name is None else verb
        self.api.requests.append((verb, f"{plural}/{name}" if name else plural))
        resource = f"{plural}/{match['sub']}" if match["sub"] else plural
        self.api.rights.add((verb, resource))
        if (verb, plural) in self.api.forbidden:
            message = f'{plural} is forbidden: User "tester" cannot {verb} resource "{plural}"'
            self._status(403, "Forbidden", message)
        elif match["sub"] == "log":
            container = f"{name}/{query.get('container')}"
            self._log(
                name,
                container if container in self.api.logs else name,
                follow=query.get("follow") == "true",
                tail=int(query.get("tailLines", "0")),
            )
        else:
            getattr(self, f"_{verb}")(plural, name, query, json.loads(body) if body else {})

    def _get(self, plural: str, name: str, query: dict[str, str], body: Any) -> None:
        with self.api.lock:
            found = copy.deepcopy(self.api.objects.get((plural, name)))
        if found is None:
            self._status(404, "NotFound", f'{plural} "{name}" not found')
        else:
            self._json(200, found)

    def _list(self, plural: str, name: None, query: dict[str, str], body: Any) -> None:
        wanted = dict(one.split("=") for one in query.get("labelSelector", "").split(",") if one)
        fields = dict(one.split("=") for one in query.get("fieldSelector", "").split(",") if one)
        with self.api.lock:
            found = [
                copy.deepcopy(value)
                for (kind, _), value in sorted(self.api.objects.items())
                if kind == plural
                and wanted.items() <= value["metadata"].get("labels", {}).items()
                and all(_at(value, tuple(path.split("."))) == said for path, said in fields.items())
            ]
        self._json(200, {"kind": f"{KINDS[plural]}List", "metadata": {"resourceVersion": "1"}, "items": found})

    def _create(self, plural: str, name: None, query: dict[str, str], body: Any) -> None:
        if (plural, body["metadata"]["name"]) in self.api.objects:
            self._status(409, "AlreadyExists", f'{plural} "{body["metadata"]["name"]}" already exists')
        elif (refused := self.api.admission(plural, body)) is not None:
            self._refused(refused)
        else:
            made = self.api.put(plural, body)
            if self._lost(plural):
                return
            self._json(201, made)

    def _lost(self, plural: str) -> bool:
        """Whether the connection breaks before the answer."""
        if not self.api.loses.get(plural):
            return False
        self.api.loses[plural] -= 1
        self.close_connection = True
        return True

    def _refused(self, refused: Refusal) -> None:
        code, message = refused
        self._status(code, "Forbidden" if code == 403 else "InternalError" if code == 500 else "Invalid", message)

    def _patch(self, plural: str, name: str, query: dict[str, str], body: Any) -> None:
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            if (refused := self.api.admission(plural, body)) is not None:
                self._refused(refused)
                return
            if (plural, name) not in self.api.objects:
                self.api.rights.add(("create", plural))
            clashes = self.api.apply(plural, name, body, query["fieldManager"], force=query.get("force") == "true")
            if clashes:
                self._conflict(clashes)
                return
            if self._lost(plural):
                return
        else:
            with self.api.lock:
                value = copy.deepcopy(self.api.objects[plural, name])
                for path, item in _leaves(body):  # a merge patch (RFC 7386): null removes
                    _drop(value, path) if item is None else _set(value, path, item)
                self.api.put(plural, value)
        self._json(200, self.api.objects[plural, name])

    def _delete(self, plural: str, name: str, query: dict[str, str], body: Any) -> None:
        if (plural, name) not in self.api.objects:
            self._status(404, "NotFound", f'{plural} "{name}" not found')
            return
        self.api.delete(plural, name)
        self._json(200, {"kind": "Status", "status": "Success"})

    def _conflict(self, clashes: dict[tuple[str, ...], str]) -> None:
        causes = [
            {"reason": "FieldManagerConflict", "message": f'conflict with "{other}"', "field": "." + ".".join(path)}
            for path, other in clashes.items()
        ]
        message = f"Apply failed with {len(causes)} conflict(s)"
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409}
        self._json(409, status | {"message": message, "details": {"causes": causes}})

    def _log(self, pod: str, where: str, *, follow: bool, tail: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Connection", "close")
        self.end_headers()
        lines = self.api.logs.setdefault(where, [])
        number = max(0, len([one for one in lines if one is not None]) - tail) if tail else 0
        while True:
            for line in lines[number:]:
                if line is None:
                    return
                self.wfile.write(f"{line}\n".encode())
                self.wfile.flush()
                number += 1
                if follow and self.api.breaks > 0 and number >= 2:
                    self.api.breaks -= 1
                    return
            if not follow or ("pods", pod) not in self.api.objects:
                return
            time.sleep(0.02)

    def _model(self, name: str, what: str) -> None:
        if name not in self.api.served:
            self._status(503, "Unavailable", "no pod is ready")
        elif what == "models":
            self._json(200, {"data": [{"id": name}]})
        else:
            self._json(200, {"choices": [{"text": self.api.served[name]}]})

    def _status(self, code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
        self._json(code, status | {"message": message}, headers)

    def _json(self, code: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(code, json.dumps(value).encode(), "application/json", headers)

    def _send(self, code: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def kube_api(controller: Callable[[KubeApi], None] = lambda _: None) -> Iterator[KubeApi]:
    """Serve until the block ends; an error in the controller ends the test, not just its thread."""
    api = KubeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    ended = threading.Event()

    def serve() -> None:
        """One server after the other: while `restarts` has an entry there is none."""
        port = 0
        while not ended.is_set():
            server = ThreadingHTTPServer(("127.0.0.1", port), handler)
            server.daemon_threads = True
            port = server.server_address[1]
            api.url = f"http://127.0.0.1:{port}"
            server.timeout = 0.02
            listening.set()
            while not ended.is_set() and not api.restarts:
                server.handle_request()
            server.server_close()
            if api.restarts:
                ended.wait(api.restarts[0])
                api.restarts.pop(0)

    def control() -> None:
        while not ended.wait(0.02):
            with api.lock:
                controller(api)

    listening = threading.Event()
    threads = [threading.Thread(target=serve), threading.Thread(target=control)]
    for thread in threads:
        thread.start()
    listening.wait()
    try:
        yield api
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def allowed(root: Path, account: str, file: str = "rbac.yaml") -> set[tuple[str, str]]:
    """(verb, resource) of what a file of infra/kubernetes allows to an account."""
    documents = list(yaml.safe_load_all((root / "infra" / "kubernetes" / file).read_text()))
    roles = {
        one["roleRef"]["name"]
        for one in documents
        if one["kind"].endswith("RoleBinding") and any(subject["name"] == account for subject in one["subjects"])
    }
    return set().union(*(rights(root, role, file) for role in roles))


def rights(root: Path, role: str, file: str = "rbac.yaml") -> set[tuple[str, str]]:
    """(verb, resource) of one role in a file of infra/kubernetes."""
    documents = yaml.safe_load_all((root / "infra" / "kubernetes" / file).read_text())
    rules = [
        rule
        for one in documents
        if one["kind"] in {"Role", "ClusterRole"} and one["metadata"]["name"] == role
        for rule in one["rules"]
    ]
    return {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def kubeconfig(api: KubeApi, folder: Path) -> Path:
    """A kubeconfig for the server, as `kubectl config` writes it."""
    path = folder / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "tester", "namespace": NAMESPACE}}],
        "clusters": [{"name": "test", "cluster": {"server": api.url}}],
        "users": [{"name": "tester", "user": {"token": "a-token"}}],
    }
    path.write_text(json.dumps(document))
    return path
