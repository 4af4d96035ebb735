"""A cluster as it is: its API server restarts, quotas and admissions refuse, finalizers take their time, others own fields."""

from __future__ import annotations

import copy
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers.contract import Step, StepRequest, StepResult
from containers.errors import BadInput, Error, NotReady, Temporary
from containers.parameters import DownloadParameters, Endpoint, ServeParameters
from containers.process import run
from containers.step import result_line
from flows.runners.kubernetes import services as kubernetes_services
from flows.runners.kubernetes.launcher import KubernetesLauncher
from flows.targets.kserve import objects
from flows.targets.rollout import Rollout
from infra.cluster import Cluster, Conflict
from infra.settings import KubernetesSettings, Settings
from tests.support.command_line import CommandLine
from tests.support.deployments import demo_deployment
from tests.support.kserve_world import FINALIZER, KServe
from tests.support.kube_api import KubeApi, kube_api, kubeconfig, rights
from tests.support.kubelet import DONE, Kubelet, fetches, says, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration
NAME = "smollm2-135m-fp8"
QUOTA = 'pods "x" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4'
LIMIT_RANGE = 'pods "x" is forbidden: maximum memory usage per Container is 2Gi, but limit is 4Gi'
POD_SECURITY = (
    'pods "x" is forbidden: violates PodSecurity "baseline:latest": seccompProfile (pod must not set '
    'securityContext.seccompProfile.type to "Unconfined")'
)
WEBHOOK = 'admission webhook "images.acme.example" denied the request: only images of registry.acme.example'
RIGHT = (
    'jobs.batch is forbidden: User "system:serviceaccount:models:x" cannot create resource "jobs" in API group "batch" '
    'in the namespace "models"'
)


class Restarting(KServe):
    """The API server goes away for a second when KServe has looked for the `at`th time."""

    def __init__(self, at: int = 3) -> None:
        super().__init__()
        self.at = at

    def __call__(self, api: KubeApi) -> None:
        super().__call__(api)
        if self.looks >= self.at > 0:
            self.at = 0
            api.restarts.append(1.0)


@pytest.fixture
def started() -> Iterator[Any]:
    """A function that starts an API server with a controller."""
    contexts = []

    def start(controller: Any) -> KubeApi:
        context = kube_api(controller)
        contexts.append(context)
        return context.__enter__()

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def open_cluster(api: KubeApi, folder: Path, patience: float = 20, **options: Any) -> Cluster:
    return Cluster.open(KubernetesSettings(kubeconfig=kubeconfig(api, folder), patience=patience), **options)


def rollout(cluster: Cluster, digit: str = "a", **options: Any) -> Rollout:
    runtime, service = objects(demo_deployment(digit))
    said: list[str] = options.pop("said", [])
    settings = {"timeout": 5.0, "gpu_patience": 0.2, "refusal_patience": 0.3, "poll": 0.03} | options
    return Rollout(cluster, runtime, service, said.append, **settings)


def launcher(api: KubeApi, folder: Path, **kubernetes: Any) -> KubernetesLauncher:
    section = KubernetesSettings(kubeconfig=kubeconfig(api, folder), **{"patience": 20, **kubernetes})
    return KubernetesLauncher(
        Settings(kubernetes=section, home=folder / "home", store={"endpoint": "http://127.0.0.1:9"})
    )


def request() -> StepRequest:
    return StepRequest(step=Step.DOWNLOAD, run="run-1", parameters=DownloadParameters(source="hf://acme/tiny").dump())


WORKS = (state(running={}), says(result_line(DONE)), state(terminated={"exitCode": 0}))


# The API server restarts.


def test_a_restart_in_the_middle_of_a_rollout(started: Any, tmp_path: Path) -> None:
    """It is waited for, said once, and the model serves in the end."""
    world = Restarting()
    world.fate["a" * 64] = "stumbles"
    said: list[str] = []
    with open_cluster(started(world), tmp_path, say=said.append) as cluster:
        assert rollout(cluster, refusal_patience=5.0).run().answer.endswith("a" * 64)
    assert [line for line in said if "the cluster does not answer" in line and "waiting for up to 20 s" in line]


def test_a_restart_while_it_is_put_back(started: Any, tmp_path: Path) -> None:
    """The roll-back is finished when the server is there again."""
    world = KServe()
    world.fate["a" * 64] = "no-gpus"
    api = started(world)

    def say(line: str) -> None:
        if "no node has room" in line and not api.restarts:
            api.restarts.append(0.7)

    with open_cluster(api, tmp_path) as cluster:
        attempt = rollout(cluster, gpu_patience=0.0)
        attempt.say = say
        with pytest.raises(NotReady, match="rolled back: nothing is left"):
            attempt.run()
    assert api.names("servingruntimes") == api.names("inferenceservices") == []


def test_a_restart_while_a_step_works(started: Any, tmp_path: Path) -> None:
    """Before its pod is there, and again while it works: one Job, its result, and no Secret is left."""

    def restart(api: KubeApi, pod: str) -> None:
        api.restarts.append(0.6)

    api = started(Kubelet(restart, state(running={}), says("a line"), restart, *WORKS[1:]))
    heard: list[str] = []
    assert launcher(api, tmp_path).run(request(), lambda event: heard.append(event.message)) == DONE
    assert heard.count("a line") == 1
    assert len(api.names("jobs")) == 1
    assert api.names("secrets") == []


@pytest.mark.parametrize("plural", ["jobs", "secrets"])
def test_a_lost_receipt_makes_no_second_object(started: Any, tmp_path: Path, plural: str) -> None:
    api = started(Kubelet(*WORKS))
    chosen = launcher(api, tmp_path)
    chosen.prepare(request(), lambda _: None)
    api.loses[plural] = 1
    assert chosen.run(request(), lambda _: None) == DONE
    assert len(api.names("jobs")) == 1


def test_a_server_that_is_overrun_is_left_alone_for_as_long_as_it_asks(started: Any, tmp_path: Path) -> None:
    api = started(lambda _: None)
    with open_cluster(api, tmp_path) as cluster:
        cluster.list("Pod", {})
        api.overrun = 1
        before = len(api.requests)
        assert cluster.list("Pod", {}) == []
    assert len(api.requests) == before + 1


def test_a_server_that_stays_away(started: Any, tmp_path: Path) -> None:
    """It is given up in the end, as temporary."""
    api = started(lambda _: None)
    with open_cluster(api, tmp_path, patience=0.5) as cluster:
        cluster.list("Pod", {})
        api.restarts.append(3.0)
        with pytest.raises(Temporary, match="does not answer"):
            cluster.list("Pod", {})


# What is being deleted.


def test_nothing_is_left_of_a_first_deployment_with_a_finalizer(started: Any, tmp_path: Path) -> None:
    """The service that is being deleted does not count as a user of its runtime."""
    world = KServe()
    world.fate["a" * 64] = "no-gpus"
    api = started(world)
    with open_cluster(api, tmp_path) as cluster, pytest.raises(NotReady, match=f"nothing is left of {NAME}"):
        rollout(cluster).run()
    assert api.names("servingruntimes") == api.names("inferenceservices") == []


def test_what_a_finalizer_holds_is_named(started: Any, tmp_path: Path) -> None:
    world = KServe()
    world.fate["a" * 64] = "no-gpus"
    world.cleans_up = False
    with open_cluster(started(world), tmp_path, patience=0.5) as cluster, pytest.raises(NotReady) as caught:
        rollout(cluster).run()
    assert f"InferenceService {NAME} is still being deleted" in caught.value.message
    assert FINALIZER in caught.value.message


def test_a_service_that_is_being_deleted_is_waited_for(started: Any, tmp_path: Path) -> None:
    """Else the new one would go with it."""
    world = KServe()
    api = started(world)
    said: list[str] = []
    with open_cluster(api, tmp_path) as cluster:
        rollout(cluster).run()
        world.cleans_up = False
        api.delete("inferenceservices", NAME)

        def say(line: str) -> None:
            said.append(line)
            world.cleans_up = True

        attempt = rollout(cluster, "b")
        attempt.say = say
        assert attempt.run().answer.endswith("b" * 64)
    assert said[0] == f"InferenceService {NAME} is being deleted: waiting until it is gone"


# Fields of other managers.


def apply_as(api: KubeApi, manager: str, **predictor: Any) -> None:
    service = {"metadata": {"name": NAME}, "spec": {"predictor": predictor}}
    assert api.apply("inferenceservices", NAME, service, manager, force=True) == {}


def managers(api: KubeApi, *path: str) -> set[str]:
    """Who owns a field, by the server's own list."""
    found = set()
    for entry in api.find("inferenceservices", NAME)["metadata"]["managedFields"]:
        below: Any = entry["fieldsV1"]
        for key in path:
            below = below.get(f"f:{key}") if below else None
        if below is not None:
            found.add(entry["manager"])
    return found


def test_what_another_manager_scales_stays_its_own(started: Any, tmp_path: Path) -> None:
    """Also when the new model does not come up; it is said."""
    world = KServe()
    api = started(world)
    said: list[str] = []
    with open_cluster(api, tmp_path) as cluster:
        rollout(cluster).run()
        apply_as(api, "scaler", minReplicas=3, maxReplicas=5)
        rollout(cluster, "b", said=said).run()
        world.fate["c" * 64] = "no-gpus"
        with pytest.raises(NotReady, match="serves as before"):
            rollout(cluster, "c").run()
    predictor = api.find("inferenceservices", NAME)["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (3, 5)
    assert predictor["model"]["storageUri"].endswith("b" * 64)
    assert managers(api, "spec", "predictor", "minReplicas") == {"scaler"}
    assert managers(api, "spec", "predictor", "model", "storageUri") == {"carwright"}
    assert "spec.predictor.minReplicas stays as scaler has set it" in said


def test_a_model_that_another_manager_has_set_is_told(started: Any, tmp_path: Path) -> None:
    """Nothing is changed, and the error names field and manager; with --force-conflicts it is taken, and put back."""
    world = KServe()
    api = started(world)
    with open_cluster(api, tmp_path) as cluster:
        rollout(cluster).run()
        model = {"storageUri": "oci://r.example.com/theirs@sha256:" + "d" * 64}
        apply_as(api, "argocd-controller", model=model)
        before = copy.deepcopy(api.find("inferenceservices", NAME)["spec"])
        with pytest.raises(Conflict, match=r"\.spec\.predictor\.model\.storageUri is argocd-controller's") as caught:
            rollout(cluster, "b").run()
        assert "--force-conflicts" in caught.value.remedy
        assert api.find("inferenceservices", NAME)["spec"] == before
        world.fate["b" * 64] = "no-gpus"
        with pytest.raises(NotReady, match="serves as before"):
            rollout(cluster, "b", force_conflicts=True).run()
        assert api.find("inferenceservices", NAME)["spec"] == before
        assert rollout(cluster, "c", force_conflicts=True).run().answer.endswith("c" * 64)


# What the cluster refuses, by its cause.


@pytest.mark.parametrize(
    ("code", "message", "error", "words", "remedy"),
    [
        (403, RIGHT, BadInput, "this account may not", "rbac.yaml"),
        (403, QUOTA, Temporary, "the quota compute of the namespace is used up", "kubectl describe quota compute"),
        (403, LIMIT_RANGE, BadInput, "a LimitRange of the namespace refuses the size", "MEMORY_GIB"),
        (403, POD_SECURITY, BadInput, "Pod Security level baseline:latest", "pod-security.kubernetes.io/enforce"),
        (403, WEBHOOK, BadInput, "the admission webhook images.acme.example refuses it", "ask who runs it"),
        (403, 'jobs "x" is forbidden: because', BadInput, "forbidden: because", "it is no missing right"),
        (
            403,
            'secrets "x" is forbidden: unable to create new content in namespace models because it is being terminated',
            BadInput,
            "the namespace is being deleted",
            "another namespace",
        ),
        (
            500,
            'Internal error occurred: failed calling webhook "images.acme.example": connection refused',
            Temporary,
            "the admission webhook images.acme.example does not answer",
            "look at its pods",
        ),
    ],
)
def test_a_refusal_is_told_by_its_cause(
    started: Any, tmp_path: Path, code: int, message: str, error: type[Error], words: str, remedy: str
) -> None:
    """Where the API server says it."""
    api = started(Kubelet())
    api.admission = lambda plural, _: (code, message) if plural == "jobs" else None
    with pytest.raises(error) as caught:
        launcher(api, tmp_path).run(request(), lambda _: None)
    assert words in caught.value.message
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    assert ("rbac.yaml" in caught.value.remedy) == (message is RIGHT)


@pytest.mark.parametrize("message", [LIMIT_RANGE, POD_SECURITY, WEBHOOK])
def test_a_pod_that_is_refused_is_told_within_seconds(started: Any, tmp_path: Path, message: str) -> None:
    """Where the Job's controller says it in an event; nothing is left."""
    api = started(Kubelet(*WORKS))
    api.admission = lambda plural, _: (403, message) if plural == "pods" else None
    with pytest.raises(BadInput) as caught:
        launcher(api, tmp_path, pending_timeout=60).run(request(), lambda _: None)
    assert message in caught.value.message
    assert api.names("jobs") == api.names("secrets") == []


def test_a_quota_that_is_used_up_is_told_and_waited_for(started: Any, tmp_path: Path) -> None:
    api = started(Kubelet(*WORKS))
    api.admission = lambda plural, _: (403, QUOTA) if plural == "pods" else None
    heard: list[str] = []

    def listen(event: Any) -> None:
        heard.append(event.message)
        if "quota" in event.message:  # somebody frees it
            api.admission = lambda *_: None

    assert launcher(api, tmp_path).run(request(), listen) == DONE
    assert any("the quota compute of the namespace is used up" in line for line in heard)


def test_a_quota_that_stays_used_up_is_temporary(started: Any, tmp_path: Path) -> None:
    api = started(Kubelet(*WORKS))
    api.admission = lambda plural, _: (403, QUOTA) if plural == "pods" else None
    with pytest.raises(Temporary, match="exceeded quota: compute") as caught:
        launcher(api, tmp_path, pending_timeout=1).run(request(), lambda _: None)
    assert "kubectl describe quota compute" in caught.value.remedy
    assert "node" not in caught.value.remedy


def test_who_may_not_read_events_waits_as_before(started: Any, tmp_path: Path) -> None:
    """A role of an earlier version."""
    api = started(Kubelet(*WORKS))
    api.forbidden.add(("list", "events"))
    api.admission = lambda plural, _: (403, LIMIT_RANGE) if plural == "pods" else None
    with pytest.raises(Temporary, match="no pod yet"):
        launcher(api, tmp_path, pending_timeout=1).run(request(), lambda _: None)


@pytest.mark.parametrize(
    ("message", "error", "remedy"),
    [(QUOTA, Temporary, "describe quota compute"), (LIMIT_RANGE, BadInput, "LimitRange")],
)
def test_a_model_whose_pod_is_refused(
    started: Any, tmp_path: Path, message: str, error: type[Error], remedy: str
) -> None:
    """A Deployment says it as its condition ReplicaFailure; the roll-back follows."""
    world = KServe()
    world.fate["a" * 64] = f"refused: {message}"
    with open_cluster(started(world), tmp_path) as cluster, pytest.raises(error) as caught:
        rollout(cluster).run()
    assert message in caught.value.message
    assert remedy in caught.value.remedy
    assert "nothing is left" in caught.value.message


def test_the_role_holds_what_is_used(started: Any, root: Path, tmp_path: Path) -> None:
    """A deployment that comes, one that crashes and goes, and one whose runtime another uses."""
    world = KServe()
    api = started(world)
    with open_cluster(api, tmp_path) as cluster:
        rollout(cluster).run()
        world.fate["b" * 64] = "crash"
        for name in (NAME, "other"):
            attempt = rollout(cluster, "b")
            attempt.service["metadata"]["name"] = name
            attempt.runtime["metadata"]["name"] = attempt.service["spec"]["predictor"]["model"]["runtime"] = name
            with pytest.raises(BadInput, match="keeps ending"):
                attempt.run()
    assert api.rights == rights(root, "carwright-deploy")


def test_the_role_of_a_flow_holds_what_is_used(started: Any, root: Path, tmp_path: Path) -> None:
    """A step that works, and one whose pod is refused."""
    api = started(Kubelet(*WORKS))
    launcher(api, tmp_path).prepare(request(), lambda _: None)
    launcher(api, tmp_path).run(request(), lambda _: None)
    api.admission = lambda plural, _: (403, LIMIT_RANGE) if plural == "pods" else None
    with pytest.raises(BadInput):
        launcher(api, tmp_path).run(request(), lambda _: None)
    assert api.rights == rights(root, "carwright-flow")


# Kubeconfigs and certificates.


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`server.pem` with its key is signed by itself; `other.pem` is a stranger's."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "other"):
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject])
    return folder


def test_a_certificate_of_another_authority(authorities: Path, tmp_path: Path) -> None:
    """At once, as bad input, with the file that says whom to trust."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authorities / "server.pem", authorities / "server.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Silent) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        path = kubeconfig(KubeApi(url=f"https://127.0.0.1:{server.server_port}"), tmp_path)
        document = yaml.safe_load(path.read_text())
        document["clusters"][0]["cluster"]["certificate-authority"] = str(authorities / "other.pem")
        path.write_text(yaml.safe_dump(document))
        with Cluster.open(KubernetesSettings(kubeconfig=path)) as cluster, pytest.raises(BadInput) as caught:
            cluster.list("Pod", {})
        server.shutdown()
    assert "has a certificate that is not trusted" in caught.value.message
    assert f"{authorities / 'other.pem'} (certificate-authority in {path})" in caught.value.message


def test_a_server_without_tls(started: Any, tmp_path: Path) -> None:
    path = kubeconfig(KubeApi(url=started(lambda _: None).url.replace("http:", "https:")), tmp_path)
    with (
        Cluster.open(KubernetesSettings(kubeconfig=path)) as cluster,
        pytest.raises(BadInput, match="does not speak TLS"),
    ):
        cluster.list("Pod", {})


# What is kept.


def test_clean_stops_what_was_kept_on_a_cluster(started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with settings that name no cluster, and it says which Job."""
    serving = state(running={})
    endpoint = Endpoint(url="http://127.0.0.1:8000/v1", served_model_name="m", engine="e")
    line = result_line(StepResult(step=Step.SERVE, values=endpoint.dump()))
    api = started(Kubelet(*fetches(), serving, says(line)))
    monkeypatch.setattr(kubernetes_services, "PORT", int(api.url.rpartition(":")[2]))
    settings = launcher(api, tmp_path).settings
    parameters = ServeParameters(reference=f"r.example.com/m@sha256:{'1' * 64}", served_model_name="m")
    asked = StepRequest(step=Step.SERVE, run="r", parameters=parameters.dump())
    kubernetes_services.KubernetesServices(settings).start(asked, lambda _: None, keep=True).keep()
    (name,) = api.names("jobs")

    carwright = CommandLine(tmp_path)
    dry = carwright("clean", "--dry-run", CARWRIGHT_HOME=str(settings.home))
    assert dry.returncode == 0
    assert api.names("jobs") == [name]
    cleaned = carwright("clean", CARWRIGHT_HOME=str(settings.home))
    assert cleaned.returncode == 0, cleaned.stderr
    assert f"stopped the Job {name} in the namespace models" in cleaned.stdout
    assert api.names("jobs") == []
    assert not (settings.home / "services" / "kubernetes").exists()
