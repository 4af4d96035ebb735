"""The flow under a real Prefect server and a real store; only the steps themselves are played by the test."""

from __future__ import annotations

import http.server
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from containers import in_toto
from containers.architectures import quantization
from containers.contract import Kind
from containers.digest import Digest
from containers.errors import BadInput, StepFailed
from containers.parameters import QuantizeOptions, ResolvedSource
from containers.store import FileEntry, Store
from flows.local import embedded
from flows.release.summary import NotPromoted
from flows.requests import fingerprint
from flows.runners.docker.sweeper import flow_run_goes_on
from flows.runtime import Runtime, location, use
from infra.settings import Settings
from tests.support.openai_server import Behaviour, openai_server
from tests.support.played_steps import PlayedLauncher, PlayedServices
from tests.support.prefect_api import logged_in, prefect_api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.release.summary import Shipped

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    home = tmp_path_factory.mktemp("home")
    given = Settings(home=home)
    with prefect_api(given), embedded.store(given) as up:
        yield up


def test_the_limit_of_a_run_that_failed_holds_nobody_up(settings: Settings) -> None:
    """The next run of the same artifact says that it waits only while another one holds the slot."""
    from flows.orchestrator.single_flight import one_at_a_time

    said: list[str] = []
    with pytest.raises(BadInput), one_at_a_time("a", said.append):
        raise BadInput("as told")
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with one_at_a_time("a", said.append):
            entered.set()
            leave.wait(60)

    def wait_for_it() -> None:
        def say(text: str) -> None:
            said.append(text)
            leave.set()

        with one_at_a_time("a", say):
            pass

    first, second = threading.Thread(target=hold), threading.Thread(target=wait_for_it)
    first.start()
    assert entered.wait(60)
    assert said == []
    second.start()
    first.join()
    second.join()
    assert said == ["another run is making the same artifact, or was killed at it: waiting for it"]


@dataclass(frozen=True)
class Chain:
    runtime: Runtime
    launcher: PlayedLauncher
    services: PlayedServices

    def ship(self, **parameters: Any) -> Shipped:
        from flows.orchestrator.results import result_storage
        from flows.quantize_and_ship import quantize_and_ship

        with use(self.runtime):
            flow = quantize_and_ship.with_options(result_storage=result_storage())
            return flow(model="hf://a/b", to="oci:x", **parameters)

    def again(self) -> Chain:
        """The same store, with nothing asked yet."""
        launcher, services = replace(self.launcher, asked=[], requests=[], failures=[]), PlayedServices()
        return Chain(replace(self.runtime, launcher=launcher, services=services), launcher, services)


@pytest.fixture
def chain(settings: Settings, request: pytest.FixtureRequest) -> Chain:
    name = request.node.name.replace("_", "-").lower()[:40].strip("-")
    own = settings.model_copy(update={"store": settings.store.model_copy(update={"prefix": name})})
    store = Store.open(location(own), own.store)
    launcher, services = PlayedLauncher(store), PlayedServices()
    return Chain(Runtime(own, store, launcher, services, lambda *_: None, "run"), launcher, services)


def test_the_order_of_the_chain(chain: Chain) -> None:
    shipped = chain.ship()
    assert chain.launcher.asked == [
        "resolve", "download", "quantize", "push", "measure", "measure", "judge", "promote",
    ]  # fmt: skip
    assert chain.services.served == ["", f"oci:x@{Digest.of(b'an image')}"]
    assert shipped.tags == ("0" * 12,)


def test_an_open_candidate_is_measured_further_and_nothing_twice(chain: Chain, tmp_path: Path) -> None:
    """Two looks are open, the third decides; the candidate that shall keep serving is started for that at the very end."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "suite.yaml").write_text("looks: [{questions: 0.5}, {}, {answers: 4}]\nserving: {max_model_len: 512}\n")
    chain = Chain(
        chain.runtime, replace(chain.launcher, by_look=("inconclusive", "inconclusive", "pass")), chain.services
    )
    chain = Chain(replace(chain.runtime, launcher=chain.launcher), chain.launcher, chain.services)
    shipped = chain.ship(suite=str(folder), keep=True)
    look = ["measure", "measure", "judge"]
    assert chain.launcher.asked == [
        "check", "resolve", "download", "quantize", "push", *look, *look, *look, "promote",
    ]  # fmt: skip
    measured = [one.parameters for one in chain.launcher.requests if one.parameters.get("action") == "measure"]
    assert [one["look"] for one in measured] == [1, 1, 2, 2, 3, 3]
    assert len({str(one["subject"]) for one in measured}) == 2
    image = f"oci:x@{Digest.of(b'an image')}"
    assert chain.services.served == ["", image, "", image, "", image, image]
    assert (shipped.verdict.decision, shipped.verdict.look, shipped.verdict.looks) == ("pass", 3, 3)
    second = chain.again()
    second.ship(suite=str(folder))
    assert second.launcher.asked == ["check", "resolve", "push", "promote"]
    assert second.services.served == []


def test_models_that_somebody_else_serves_are_measured_where_they_are(chain: Chain) -> None:
    """Nothing is started; each run measures anew, for what a server serves may change."""
    with openai_server(Behaviour(version="0.32.0")) as before, openai_server(Behaviour(version="0.32.0")) as after:
        chain.ship(baseline_endpoint=before, candidate_endpoint=f"{after}#toy")
        measured = [one for one in chain.launcher.requests if one.parameters.get("action") == "measure"]
        assert [(one.options["endpoint"], one.options["served_model_name"]) for one in measured] == [
            (before, "toy"), (after, "toy"),
        ]  # fmt: skip
        assert measured[0].parameters["engine"] == f"vllm 0.32.0 at {before} in the run run"
    assert chain.services.served == []
    second = chain.again()
    with openai_server(Behaviour(version="0.32.0")) as other, openai_server(Behaviour(version="0.31.0")) as older:
        with pytest.raises(BadInput, match="measured by different servers"):
            second.ship(baseline_endpoint=other, candidate_endpoint=older)
        assert "download" not in second.launcher.asked
        with pytest.raises(BadInput, match=r"the baseline by vLLM 0\.31\.0"):  # and the candidate by ours
            second.ship(baseline_endpoint=older)
        with pytest.raises(BadInput, match="baseline and candidate are the same model toy"):
            second.ship(baseline_endpoint=other, candidate_endpoint=other)
        short = Behaviour(version="0.32.0", context=512)
        with openai_server(short) as url, pytest.raises(BadInput, match="a context of 512 tokens"):
            second.ship(baseline_endpoint=other, candidate_endpoint=url)
    assert second.launcher.asked == ["resolve"] * 4  # nothing was downloaded for any of them


def test_pure_steps_are_cached_and_effects_are_looked_at(chain: Chain) -> None:
    chain.ship()
    second = chain.again()
    shipped = second.ship()
    assert second.launcher.asked == ["resolve", "push", "promote"]
    assert second.services.served == []
    assert [step.state for step in shipped.steps if step.name in {"download", "quantize", "judge"}] == ["cached"] * 3


def test_the_same_product_shipped_again_has_the_same_statements(chain: Chain) -> None:
    """They tell the first run's id, whoever runs later; another override is another product."""
    cards = []
    for parameters in ({}, {"force": True, "reason": "again"}, {"override_gate": "known\nand accepted"}):
        again = chain.again()
        replace(again, runtime=replace(again.runtime, run=f"run-{len(cards)}")).ship(**parameters)
        cards.append(again.launcher.requests[-1].inputs["card"])
    assert cards[0] == cards[1] != cards[2]
    store = chain.runtime.store
    said = {one.path: store.read_bytes(one.sha256) for one in store.load(cards[0]).files}
    assert set(said) == {
        "README.md", "bom.cdx.json", "bom.intoto.json", "provenance.intoto.json", "test-result.intoto.json",
    }  # fmt: skip
    image = Digest.of(b"an image")
    for path in sorted(said.keys() - {"README.md", "bom.cdx.json"}):
        in_toto.read(said[path], path, image)
    provenance = json.loads(said["provenance.intoto.json"])["predicate"]
    assert provenance["runDetails"]["metadata"] == {"invocationId": "run-0"}
    steps = {one["name"]: one["state"] for one in provenance["buildDefinition"]["internalParameters"]["steps"]}
    assert steps["quantize"] == "done"
    listed = provenance["buildDefinition"]["resolvedDependencies"]
    assert listed[0] == {"name": "base model", "uri": f"hf://a/b@{'0' * 40}", "digest": {"gitCommit": "0" * 40}}
    names = [one["name"] for one in listed]
    assert {"base model/file", "recipe", "suite smoke", "requirements.lock of quantize"} <= set(names)
    bom = json.loads(said["bom.cdx.json"])
    assert bom == json.loads(said["bom.intoto.json"])["predicate"]
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(said["bom.cdx.json"].decode()) is None


def test_a_cache_does_not_answer_for_a_blob_that_is_gone(chain: Chain) -> None:
    chain.ship()
    store = chain.runtime.store
    quantized = store.find(Kind.CHECKPOINT, _fingerprint_of_quantized(chain))
    assert quantized is not None
    store.discard_blob(quantized.files[0].sha256)
    second = chain.again()
    second.ship()
    assert second.launcher.asked == ["resolve", "quantize", "push", "promote"]


def test_the_store_is_the_truth_when_the_cache_remembers_other_contents(chain: Chain) -> None:
    chain.ship()
    store = chain.runtime.store
    quantized = store.find(Kind.CHECKPOINT, _fingerprint_of_quantized(chain))
    assert quantized is not None
    store.forget(quantized.ref)
    entry = FileEntry(path="file", size=5, sha256=store.put_bytes(b"other"))
    other = store.commit(quantized.model_copy(update={"files": (entry,)}))
    assert other != quantized.ref
    second = chain.again()
    second.ship()
    assert second.launcher.asked[:2] == ["resolve", "quantize"]


def _fingerprint_of_quantized(chain: Chain) -> str:
    with use(chain.runtime):
        source = ResolvedSource(source="hf://a/b", pinned="hf://a/b@" + "0" * 40, commit="0" * 40, files=1, size=1)
        requests = chain.runtime.requests
        downloaded = chain.runtime.store.find(Kind.CHECKPOINT, fingerprint(requests.download(source)))
        assert downloaded is not None
        return fingerprint(
            requests.quantize(downloaded.ref, quantization(source.config, "FP8_DYNAMIC"), QuantizeOptions())
        )


def test_force_does_every_step_again(chain: Chain) -> None:
    chain.ship()
    second = chain.again()
    second.ship(force=True)
    assert second.launcher.asked.count("measure") == 2
    assert {"download", "quantize", "judge"} <= set(second.launcher.asked)


def test_a_temporary_failure_is_tried_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import steps

    monkeypatch.setattr(steps, "effect_step", steps.effect_step.with_options(retry_delay_seconds=0.1))
    chain.launcher.failures.append(StepFailed("push", 75, "the registry is busy"))
    chain.ship()
    assert chain.launcher.asked.count("push") == 2


def test_bad_input_is_not_tried_again(chain: Chain) -> None:
    chain.launcher.failures.append(StepFailed("download", 2, "no such revision"))
    with pytest.raises(StepFailed, match="no such revision"):
        chain.ship()
    assert chain.launcher.asked == ["resolve", "download"]


def test_a_refused_candidate_is_not_promoted(chain: Chain) -> None:
    chain.launcher.decision = "refuse"
    with pytest.raises(NotPromoted, match="because") as caught:
        chain.ship()
    assert caught.value.exit_code == 3
    assert caught.value.shipped.tags == ()
    assert "promote" not in chain.launcher.asked


def test_an_overridden_gate_promotes(chain: Chain) -> None:
    chain.launcher.decision = "refuse"
    assert chain.ship(override_gate="known and accepted").tags
    assert chain.launcher.asked[-1] == "promote"


def test_the_profile_says_what_an_open_gate_does(chain: Chain) -> None:
    """`release` stops with an exit code of its own; `smoke` promotes and says so; neither promotes a refusal."""
    chain.launcher.decision = "inconclusive"
    with pytest.raises(NotPromoted, match="because") as caught:
        chain.ship()
    assert caught.value.exit_code == 4
    shipped = chain.ship(gate_profile="smoke")
    assert shipped.tags
    assert "the gate's profile is smoke" in dict(shipped.facts())["promoted"]


@contextmanager
def _webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    received: list[dict[str, Any]] = []

    class Receive(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Receive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()


def test_a_failed_run_is_announced(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    with _webhook() as (url, received):
        monkeypatch.setenv("CARWRIGHT_NOTIFY_WEBHOOK", url)
        chain.launcher.failures.append(StepFailed("quantize", 2, "already quantized"))
        with pytest.raises(StepFailed):
            chain.ship()
    assert [(message["flow"], message["state"]) for message in received] == [("quantize-and-ship", "Failed")]
    assert "already quantized" in received[0]["message"]


def test_a_person_can_read_the_run_in_prefect(chain: Chain) -> None:
    """Names of runs and tasks, and the outcome as an artifact."""
    from prefect.settings import PREFECT_API_URL

    chain.ship()
    api = PREFECT_API_URL.value()
    (run,) = logged_in(api).post("/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()
    assert run["name"] == "hf://a/b to FP8_DYNAMIC"
    tasks = (
        logged_in(api)
        .post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"})
        .json()
    )
    assert [task["name"] for task in tasks] == [
        "resolve hf://a/b",
        "download hf://a/b at 000000000000",
        "quantize to FP8_DYNAMIC",
        "push to oci:x",
        "deploy the baseline",
        "evaluate the baseline (smoke)",
        "deploy the candidate",
        "evaluate the candidate (smoke)",
        "judge by smoke",
        f"promote {Digest.of(b'an image').short} to 000000000000",
    ]
    artifacts = logged_in(api).post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}).json()
    told = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert {"gate", "scores", "report", "outcome", "steps"} <= told.keys()
    assert "# PASS by smoke" in told["gate"]
    assert "because" in told["gate"]
    (row,) = json.loads(told["scores"])
    assert (row["baseline"], row["quantized"], row["recovery"]) == ("80.00", "79.50", "99.4 %")
    assert row["interval"] == "-1.00 to +0.50"
    written = re.search(r"`(/[^`]*)`", told["report"])
    assert written is not None
    assert Path(written[1]).stat().st_size == 64  # the played page: a fingerprint


def test_a_store_that_others_reach_gives_a_link_to_the_report(chain: Chain) -> None:
    """Under the name that browsers know: with the link anybody reads the page as HTML, without its signature nobody."""
    from prefect.settings import PREFECT_API_URL

    own = chain.runtime.settings
    public = str(own.store.endpoint).replace("127.0.0.1", "localhost")
    settings = own.model_copy(
        update={"store": own.store.model_copy(update={"folder": None, "public_endpoint": public})}
    )
    store = Store.open(location(settings), settings.store)
    chain.launcher.store = store  # every step writes through the server, as it does where no step has the folder
    chain = replace(chain, runtime=replace(chain.runtime, settings=settings, store=store))
    shipped = chain.ship()
    assert shipped.report == f"carwright report {shipped.reference}"
    api = PREFECT_API_URL.value()
    (found,) = (
        logged_in(api)
        .post("/artifacts/filter", json={"artifacts": {"key": {"any_": ["report-link"]}}, "limit": 1})
        .json()
    )
    link = re.search(r"\((http[^)]*)\)", found["data"])
    assert link is not None
    assert link[1].startswith(f"{public}/")
    page = httpx.get(link[1])
    assert (page.status_code, page.headers["content-type"], len(page.text)) == (200, "text/html", 64)
    assert httpx.get(link[1].partition("?")[0]).status_code >= 400


def test_the_sweeper_learns_what_became_of_a_run(chain: Chain) -> None:
    """From the server itself: over, unknown, or going on; and nothing when there is no server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    chain.ship()
    api = PREFECT_API_URL.value()
    (run,) = logged_in(api).post("/flow_runs/filter", json={"sort": "START_TIME_DESC", "limit": 1}).json()
    assert flow_run_goes_on(run["id"]) is False
    assert flow_run_goes_on("01234567-89ab-cdef-0123-456789abcdef") is False
    going = logged_in(api).post("/flow_runs/", json={"flow_id": run["flow_id"], "state": {"type": "RUNNING"}}).json()
    assert flow_run_goes_on(going["id"]) is True
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert flow_run_goes_on(going["id"]) is None
