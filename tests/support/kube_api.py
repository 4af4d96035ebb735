"""A small Kubernetes API server on loopback, for the tests of what talks to one: objects, server-side apply, logs.

It knows no schemas. What controllers, scheduler and kubelet would do is a function that tests pass in, called with the
server about 50 times a second. What it models of server-side apply: a field belongs to those who applied it, goes when
its last owner names it no more, and a value of somebody else's needs `force`.
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
}


@dataclass
class KubeApi:
    """The state. `forbidden` holds (verb, plural); `missing` holds plurals whose CRD is not installed; `served` says
    what answers behind the URL of a service; `logs` has the lines of a pod (of one container,
    under `pod/container`), and None as the last one ends it.
    """

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    owners: dict[tuple[str, str], dict[str, set[tuple[str, ...]]]] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    served: dict[str, str] = field(default_factory=dict)
    logs: dict[str, list[str | None]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    rights: set[tuple[str, str]] = field(default_factory=set)
    loses: set[str] = field(default_factory=set)  # plurals of which an object is taken, and the answer to it is lost
    breaks: int = 0  # how often a followed log breaks off after its first lines
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
            self.objects[key] = value
            return value

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

    def apply(self, plural: str, name: str, wanted: dict[str, Any], manager: str, *, force: bool) -> str:
        """Server-side apply; the name of the manager in conflict, or ""."""
        with self.lock:
            key = (plural, name)
            current = copy.deepcopy(self.objects.get(key, {"metadata": {"name": name}}))
            owners = self.owners.setdefault(key, {})
            mine = {path for path, _ in _leaves(wanted)}
            for other, paths in owners.items():
                if other == manager:
                    continue
                clash = [path for path, value in _leaves(wanted) if path in paths and _at(current, path) != value]
                if clash and not force:
                    return other
                paths.difference_update(clash)
            for path in owners.get(manager, set()) - mine:
                if not any(path in paths for other, paths in owners.items() if other != manager):
                    _drop(current, path)
            for path, value in _leaves(wanted):
                _set(current, path, value)
            owners[manager] = mine
            self.put(plural, current)
            return ""


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
        with self.api.lock:
            found = [
                copy.deepcopy(value)
                for (kind, _), value in sorted(self.api.objects.items())
                if kind == plural and wanted.items() <= value["metadata"].get("labels", {}).items()
            ]
        self._json(200, {"kind": f"{KINDS[plural]}List", "metadata": {"resourceVersion": "1"}, "items": found})

    def _create(self, plural: str, name: None, query: dict[str, str], body: Any) -> None:
        if (plural, body["metadata"]["name"]) in self.api.objects:
            self._status(409, "AlreadyExists", f'{plural} "{body["metadata"]["name"]}" already exists')
        else:
            self._json(201, self.api.put(plural, body))

    def _patch(self, plural: str, name: str, query: dict[str, str], body: Any) -> None:
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            other = self.api.apply(plural, name, body, query["fieldManager"], force=query.get("force") == "true")
            if other:
                self._status(409, "Conflict", f'Apply failed with 1 conflict: conflict with "{other}"')
                return
            if plural in self.api.loses:
                self.close_connection = True
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
        self.api.remove(plural, name)
        self._json(200, {"kind": "Status", "status": "Success"})

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

    def _status(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
        self._json(code, status | {"message": message})

    def _json(self, code: int, value: Any) -> None:
        self._send(code, json.dumps(value).encode(), "application/json")

    def _send(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def kube_api(controller: Callable[[KubeApi], None] = lambda _: None) -> Iterator[KubeApi]:
    """Serve until the block ends; an error in the controller ends the test, not just its thread."""
    api = KubeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    ended = threading.Event()

    def control() -> None:
        while not ended.wait(0.02):
            with api.lock:
                controller(api)

    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)), threading.Thread(target=control)]
    for thread in threads:
        thread.start()
    try:
        yield api
    finally:
        ended.set()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()


def allowed(root: Path, account: str, file: str = "rbac.yaml") -> set[tuple[str, str]]:
    """(verb, resource) of what a file of infra/kubernetes allows to an account."""
    documents = list(yaml.safe_load_all((root / "infra" / "kubernetes" / file).read_text()))
    roles = {
        one["roleRef"]["name"]
        for one in documents
        if one["kind"].endswith("RoleBinding") and any(subject["name"] == account for subject in one["subjects"])
    }
    rules = [
        rule
        for one in documents
        if one["kind"] in {"Role", "ClusterRole"} and one["metadata"]["name"] in roles
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
