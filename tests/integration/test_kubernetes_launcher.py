"""Steps as Jobs, over HTTP against a small API server; its kubelet runs the real step, or plays what a test tells it to."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from containers.contract import Step, StepRequest, StepResult
from containers.errors import BadInput, NotTrusted, StepFailed, Temporary
from containers.parameters import DownloadParameters, Endpoint, PushParameters, ServeParameters
from containers.step import result_line
from flows.runners.kubernetes import services as kubernetes_services
from flows.runners.kubernetes.launcher import KubernetesLauncher
from infra.settings import KubernetesSettings, Settings
from tests.support.kube_api import KubeApi, allowed, kube_api, kubeconfig
from tests.support.kubelet import DONE, Kubelet, fetches, says, state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.events import Event

pytestmark = pytest.mark.integration


def unschedulable(api: KubeApi, pod: str) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient cpu"}
    api.objects["pods", pod]["status"]["conditions"] = [condition]


def gone(api: KubeApi, pod: str) -> bool:
    """Not before the launcher has seen it run and reads its log."""
    if ("get", f"pods/{pod}") not in api.requests:
        return False
    api.remove("pods", pod)
    return True


@pytest.fixture
def serve(tmp_path: Path, root: Path) -> Iterator[Any]:
    """A function that starts the API server with a kubelet and gives the server and a launcher."""
    started = []

    def start(kubelet: Any, resources: Any = None, **kubernetes: Any) -> tuple[KubeApi, KubernetesLauncher]:
        context = kube_api(kubelet)
        api = context.__enter__()
        started.append((context, api))
        section = KubernetesSettings(kubeconfig=kubeconfig(api, tmp_path), **kubernetes)
        store = {"endpoint": "http://127.0.0.1:9", "access_key_id": "an-id", "secret_access_key": "a-secret-key"}
        settings = Settings(
            kubernetes=section, home=tmp_path, store=store, hub_token="a-token", resources=resources or {}
        )
        return api, KubernetesLauncher(settings)

    yield start
    for context, api in started:
        context.__exit__(None, None, None)
        assert api.rights <= allowed(root, "carwright-flow"), "rbac.yaml lacks a right"


def request(source: str = "hf://acme/tiny") -> StepRequest:
    return StepRequest(step=Step.DOWNLOAD, run="run-1", parameters=DownloadParameters(source=source).dump())


def test_the_token_of_a_ci_job_is_asked_for_once(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever a Job, its pod and its Secret are made of."""
    asked: list[str] = []

    def detect(audience: str) -> str:
        asked.append(audience)
        return "a-token"

    monkeypatch.setattr("id.detect_credential", detect)
    api, launcher = serve(Kubelet(says(result_line(DONE)), state(terminated={"exitCode": 0})))
    launcher.settings.sign.keyless = "public"
    promote = PushParameters(action="promote", reference=f"r.example.com/m@sha256:{'1' * 64}", tags=("a",))
    launcher.run(StepRequest(step=Step.PUSH, run="run-1", parameters=promote.dump()), lambda _: None)
    assert asked == ["sigstore"]
    assert ("create", "secrets") in {(verb, what.partition("/")[0]) for verb, what in api.requests}


def test_the_result_comes_out_of_the_log(serve: Any) -> None:
    """Lines are passed on as they come, the result is not one of them, and the Secret goes with the step's end."""
    kubelet = Kubelet(
        state(running={}),
        says('{"event": "progress", "task": "download", "done": 1, "total": 2, "unit": "B"}', "a library's own print"),
        says(result_line(DONE)),
        state(terminated={"exitCode": 0}),
    )
    api, launcher = serve(kubelet)
    heard: list[Event] = []
    assert launcher.run(request(), heard.append) == DONE
    assert [event.task or event.message for event in heard if "carwright" not in event.message] == [
        "download",
        "a library's own print",
    ]
    assert api.names("secrets") == []
    assert len(api.names("jobs")) == 1, "it stays, with its log, until its time to live is over"


def test_what_a_pod_is_given(serve: Any) -> None:
    """The Secret holds the request and this step's secrets, the Job none of them; the Job owns the Secret."""
    kubelet = Kubelet(state(running={}), says(result_line(DONE)), state(terminated={"exitCode": 0}))
    _, launcher = serve(
        kubelet,
        resources={"download": {"gpus": 2}},
        ttl=60,
        owner_pod="flow",
        owner_uid="flow-uid",
        image="r.example.com/c/{target}:1",
    )
    launcher.run(request(), lambda _: None)
    job, secret = kubelet.seen
    names = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert StepRequest.model_validate_json(names.pop("request.json")) == request()
    assert names["CARWRIGHT_STORE__SECRET_ACCESS_KEY"] == "a-secret-key"
    assert names["CARWRIGHT_HUB_TOKEN"] == "a-token"
    assert "a-secret-key" not in str(job)
    assert "a-token" not in str(job)
    assert secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert job["metadata"]["ownerReferences"][0]["uid"] == "flow-uid"
    assert job["spec"]["ttlSecondsAfterFinished"] == 60
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "r.example.com/c/download:1"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_a_log_that_breaks_off_is_taken_up_again(serve: Any) -> None:
    """Every line once, in order, however often the connection goes."""
    lines = [f"line {number}" for number in range(6)]
    kubelet = Kubelet(state(running={}), says(*lines), says(result_line(DONE)), state(terminated={"exitCode": 0}))
    api, launcher = serve(kubelet)
    api.breaks = 2
    heard: list[str] = []
    assert launcher.run(request(), lambda event: heard.append(event.message)) == DONE
    assert [line for line in heard if line.startswith("line")] == lines


def test_a_log_whose_beginning_is_gone_still_has_the_result(serve: Any) -> None:
    """A kubelet keeps the last 10 MiB of a log, and a step may say more than that."""
    heard: list[str] = []

    def rotated(api: KubeApi, pod: str) -> None:
        if "line 5" not in heard:
            kubelet.play.insert(0, rotated)
            return
        api.logs[pod].append(None)  # whoever follows the old file is at its end
        api.logs[pod] = [result_line(DONE)]

    said = says(*(f"line {number}" for number in range(6)))
    kubelet = Kubelet(state(running={}), said, rotated, state(terminated={"exitCode": 0}))
    _, launcher = serve(kubelet)
    assert launcher.run(request(), lambda event: heard.append(event.message)) == DONE


@pytest.mark.parametrize(
    ("play", "code", "words"),
    [
        (
            (says('{"event": "error", "message": "no such model"}'), state(terminated={"exitCode": 2})),
            2,
            "no such model",
        ),
        ((state(terminated={"exitCode": 137, "reason": "OOMKilled"}),), 137, "more memory than its limit of 4 GiB"),
        ((says("Traceback", "KeyError: 'x'"), state(terminated={"exitCode": 1})), 1, "KeyError: 'x'"),
        ((state(terminated={"exitCode": 0}),), 1, "its log holds no result"),
        ((gone,), 75, "was removed while it worked"),
    ],
)
def test_a_step_that_fails(serve: Any, play: tuple[Any, ...], code: int, words: str) -> None:
    """Its own code and words; what the cluster did to it is temporary."""
    _, launcher = serve(Kubelet(state(running={}), *play))
    with pytest.raises(StepFailed, match=words) as caught:
        launcher.run(request(), lambda _: None)
    assert caught.value.exit_code == code
    assert caught.value.temporary == (code == 75)


def test_no_node_has_room(serve: Any) -> None:
    """The scheduler's words, and neither Job nor Secret stays."""
    api, launcher = serve(Kubelet(unschedulable), pending_timeout=0.5)
    with pytest.raises(Temporary, match="Insufficient cpu"):
        launcher.run(request(), lambda _: None)
    assert api.names("jobs") == api.names("secrets") == api.names("pods") == []


def test_an_image_that_is_not_there(serve: Any) -> None:
    """Said at once, without waiting for a time limit."""
    api, launcher = serve(Kubelet(state(waiting={"reason": "ImagePullBackOff", "message": "not found"})))
    with pytest.raises(BadInput, match="ImagePullBackOff: not found"):
        launcher.run(request(), lambda _: None)
    assert api.names("jobs") == []


def test_cancelling_deletes_the_job(serve: Any) -> None:
    """What unwinds the flow removes Job, pod and Secret."""
    running = threading.Event()
    api, launcher = serve(Kubelet(state(running={}), says("working"), lambda *_: running.set()))

    def cancel(event: Event) -> None:
        if event.message == "working":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.run(request(), cancel)
    assert api.names("jobs") == api.names("secrets") == api.names("pods") == []


@pytest.mark.parametrize("refused", [("create", "jobs"), ("create", "secrets"), ("patch", "jobs"), ("list", "pods")])
def test_a_right_that_is_missing(serve: Any, refused: tuple[str, str]) -> None:
    """403 is bad input, and nothing is left wherever it strikes."""
    api, launcher = serve(Kubelet(state(running={})))
    api.forbidden.add(refused)
    with pytest.raises(BadInput, match="forbidden"):
        launcher.run(request(), lambda _: None)
    assert api.names("jobs") == api.names("secrets") == []


def test_folders_of_this_machine_are_refused(serve: Any) -> None:
    """No pod sees them; said before anything is made."""
    api, launcher = serve(Kubelet())
    push = StepRequest(step=Step.PUSH, run="r", parameters=PushParameters(target="oci:./image").dump())
    for one in (request("file:///models/x"), push, StepRequest(step=Step.SERVE, run="r")):
        with pytest.raises(BadInput):
            launcher.run(one, lambda _: None)
    assert api.requests == []


def serving(api: KubeApi, pod: str) -> None:
    """The pod's address is that of the API server, which answers there for the model, too."""
    api.objects["pods", pod]["status"]["podIP"] = "127.0.0.1"


def test_a_service_goes_on(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is read while it works; ended, its Job goes; kept, it has no owner and no end, and the next run finds it."""
    endpoint = Endpoint(url="http://0.0.0.0:8000/v1", served_model_name="m", server="vllm 1")
    line = result_line(StepResult(step=Step.SERVE, values=endpoint.dump()))
    play = (*fetches("unpacking"), state(running={}), serving, says("loading"), says(line))
    kubelet = Kubelet(*play)
    api, launcher = serve(kubelet, owner_pod="flow", owner_uid="flow-uid")
    monkeypatch.setattr(kubernetes_services, "PORT", int(api.url.rpartition(":")[2]))
    services = kubernetes_services.KubernetesServices(launcher.settings)
    parameters = ServeParameters(reference=f"r.example.com/m@sha256:{'1' * 64}", served_model_name="m")
    asked = StepRequest(step=Step.SERVE, run="r", parameters=parameters.dump())

    heard: list[str] = []
    lease = services.start(asked, lambda event: heard.append(event.message))
    assert [one for one in heard if "carwright" not in one] == ["unpacking", "loading"]
    assert lease.endpoint.url == f"{api.url}/v1"
    assert lease.serves
    (name,) = api.names("jobs")
    assert api.find("jobs", name)["spec"]["activeDeadlineSeconds"] == 86400
    assert api.names("secrets") == []
    lease.end()
    assert api.names("jobs") == api.names("pods") == []

    kubelet.play = list(play)
    services.start(asked, lambda _: None, keep=True).keep()
    (name,) = api.names("jobs")
    assert not api.find("jobs", name)["metadata"].get("ownerReferences")
    assert not api.find("jobs", name)["spec"].get("activeDeadlineSeconds")
    again = services.start(asked, lambda _: None)
    assert again.found
    bound = asked.model_copy(update={"options": {"policy": "{}"}})
    with pytest.raises(NotTrusted, match=f"by the Job {name}: its files cannot be compared"):
        services.start(bound, lambda _: None)
    again.end()
    assert api.names("jobs") == [name], "what was kept is not this run's to end"
    assert services.stop_all() == []
    assert services.stop_all(kept=True) == [f"the Job {name} in the namespace models"]


_FAILS = '{"event": "error", "message": "no such GPU"}'


@pytest.mark.parametrize(
    "play",
    [(*fetches(), state(running={}), says(_FAILS), state(terminated={"exitCode": 2})), fetches(_FAILS, code=2)],
    ids=["serving", "fetching"],
)
def test_a_service_that_ends_first(serve: Any, play: tuple[Any, ...]) -> None:
    """Its own words, and nothing stays."""
    api, launcher = serve(Kubelet(*play))
    parameters = ServeParameters(reference=f"r.example.com/m@sha256:{'1' * 64}", served_model_name="m")
    asked = StepRequest(step=Step.SERVE, run="r", parameters=parameters.dump())
    with pytest.raises(StepFailed, match="no such GPU"):
        kubernetes_services.KubernetesServices(launcher.settings).start(asked, lambda _: None)
    assert api.names("jobs") == api.names("secrets") == []


class RealKubelet(Kubelet):
    """Runs the step of the manifest for real: its command, variables and mounts, with this interpreter."""

    def __init__(self, folder: Path) -> None:
        super().__init__(state(running={}), self.start)
        self.folder = folder

    def start(self, api: KubeApi, pod: str) -> None:
        threading.Thread(target=self.work, args=(api, pod), daemon=True).start()

    def work(self, api: KubeApi, pod: str) -> None:
        spec, secret = api.objects["pods", pod]["spec"], self.seen[1]
        container = spec["containers"][0]
        (self.folder / "request.json").write_bytes(base64.b64decode(secret["data"]["request.json"]))
        variables = {one["name"]: one["value"] for one in container["env"]}
        variables |= {key: base64.b64decode(value).decode() for key, value in secret["data"].items() if key.isupper()}
        variables |= dict.fromkeys(("HOME", "TMPDIR", "CARWRIGHT_HOME", "CARWRIGHT_CACHE"), str(self.folder))
        arguments = [one.replace("/run/request", str(self.folder)) for one in container["args"]]
        ended = subprocess.run(
            [sys.executable, *container["command"][1:], *arguments],
            env=variables,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        api.logs.setdefault(pod, []).extend(ended.stdout.splitlines())
        state(terminated={"exitCode": ended.returncode})(api, pod)


def test_a_real_step(serve: Any, tmp_path: Path) -> None:
    """The download step asks a local hub for a commit, from the manifest alone, and its result comes back."""
    from infra.hub import Hub, Repositories
    from tests.support.download_world import checkpoint

    work = tmp_path / "pod"
    work.mkdir()
    repositories = Repositories(tmp_path / "hub")
    commit = repositories.publish("acme/tiny", checkpoint(tmp_path / "checkpoint"))
    repositories.add_token("a-token")  # the hub knows it by no other way than the pod's Secret
    repositories.protect("acme/tiny", private=True)
    repositories.grant("acme/tiny", "a-token")
    with Hub(repositories) as hub:
        api, launcher = serve(RealKubelet(work))
        settings = launcher.settings.model_copy(update={"hub_endpoint": hub.endpoint})
        asked = StepRequest(
            step=Step.DOWNLOAD,
            run="r",
            parameters=DownloadParameters(action="resolve", source="hf://acme/tiny@main").dump(),
        )
        result = KubernetesLauncher(settings).run(asked, lambda _: None)
    assert result.values["commit"] == str(commit)
    assert api.names("secrets") == []
