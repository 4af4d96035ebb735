"""The step as a command, against a real store: measured once, judged from artifacts, and nothing kept of a failure."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from containers import suites
from containers.contract import ArtifactRef, Kind, Step, StepRequest, StepResult, StoreLocation
from containers.process import Completed, inherited, run
from containers.store import Store
from containers.verdict import Verdict
from infra.objectstore import EmbeddedStore
from tests.support.openai_server import Behaviour, openai_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from containers.settings import StoreSettings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    folder = tmp_path_factory.mktemp("store")
    with EmbeddedStore(folder / "data", folder / "log") as settings:
        yield settings


@pytest.fixture
def suite(tmp_path: Path) -> suites.SuiteFiles:
    """A suite of a user's own: the shipped one with little text, so that the toy answers fast."""
    smoke = suites.read("smoke").files["suite.yaml"].replace("name: smoke", "name: small").partition("\ntasks:")[0]
    folder = tmp_path / "small"
    (folder / "text").mkdir(parents=True)
    (folder / "suite.yaml").write_text(smoke)
    for number, name in enumerate(("01-bridge", "02-tides", "03-third")):
        (folder / "text" / f"{name}.txt").write_text("Rain fell on the crooked bridge.\n" * (number + 3))
    return suites.read(str(folder))


class Runner:
    """Sends requests to the step's command and keeps its last output."""

    def __init__(self, store: StoreSettings, folder: Path, suite: suites.SuiteFiles) -> None:
        self.settings = store
        self.location = StoreLocation(endpoint=store.endpoint, bucket=store.bucket)
        self.folder = folder
        self.suite = suite
        self.done: Completed | None = None

    def run(self, parameters: Any, options: Any, inputs: dict[str, ArtifactRef] | None = None) -> StepResult | int:
        request = StepRequest(
            step=Step.EVALUATE,
            run="test",
            inputs=inputs or {},
            parameters=parameters.dump(),
            options=options.dump(),
            store=self.location,
        )
        (self.folder / "request.json").write_text(request.model_dump_json())
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        assert self.settings.access_key_id is not None
        assert self.settings.secret_access_key is not None
        keys = {
            "CARWRIGHT_STORE__ACCESS_KEY_ID": self.settings.access_key_id.get_secret_value(),
            "CARWRIGHT_STORE__SECRET_ACCESS_KEY": self.settings.secret_access_key.get_secret_value(),
        }
        argv = [sys.executable, "-m", "containers.evaluate", "--request", str(self.folder / "request.json")]
        self.done = run([*argv, "--result", str(result)], env={**inherited(), **keys}, check=False, timeout=300)
        return StepResult.model_validate_json(result.read_bytes()) if self.done.code == 0 else self.done.code

    def measure(self, subject: str, **options: Any) -> StepResult | int:
        parameters = self.suite.parameters(action="measure", subject=subject, server="toy")
        return self.run(parameters, self.suite.options(served_model_name="toy", **options))

    def error(self) -> str:
        assert self.done is not None
        return str(json.loads(self.done.stderr.strip().splitlines()[-1])["message"])

    def measurements(self) -> int:
        return len(list(Store.open(self.location, self.settings).manifests(Kind.MEASUREMENT)))


@pytest.fixture
def runner(store: StoreSettings, tmp_path: Path, suite: suites.SuiteFiles) -> Runner:
    return Runner(store, tmp_path, suite)


def measured(runner: Runner, subject: str, behaviour: Behaviour) -> ArtifactRef:
    with openai_server(behaviour) as url:
        result = runner.measure(subject, endpoint=url)
    assert isinstance(result, StepResult), runner.done
    return result.outputs["measurement"]


def test_measure_twice_and_judge(runner: Runner) -> None:
    """The second measurement of a subject asks nobody; the verdict is in the artifact and in the values."""
    baseline = measured(runner, "sha256:" + "1" * 64, Behaviour())
    silent = Behaviour()
    assert measured(runner, "sha256:" + "1" * 64, silent) == baseline
    assert silent.paths == []
    same = measured(runner, "sha256:" + "2" * 64, Behaviour())
    damaged = measured(runner, "sha256:" + "3" * 64, Behaviour(shift=0.8))
    for candidate, decision in ((same, "pass"), (damaged, "refuse")):
        result = runner.run(
            runner.suite.parameters(action="judge", subject="x"),
            runner.suite.options(),
            {"candidate": candidate, "baseline": baseline},
        )
        assert isinstance(result, StepResult), runner.done
        verdict = Verdict.read(result.values)
        assert verdict.decision == decision, verdict
        store = Store.open(runner.location, runner.settings)
        manifest = store.load(result.outputs["verdict"])
        assert [entry.path for entry in manifest.files] == ["report.html", "report.json", "verdict.json"]
        kept = store.read_bytes(manifest.files[2].sha256)
        assert Verdict.model_validate_json(kept) == verdict


def test_the_store_holds_nothing_of_a_measurement_that_failed(runner: Runner) -> None:
    before = runner.measurements()
    with openai_server(Behaviour(failing=1.0)) as url:
        assert runner.measure("sha256:" + "4" * 64, endpoint=url, attempts=2) == 75
        assert "failed 2 times in a row" in runner.error()
    assert runner.measure("sha256:" + "4" * 64, endpoint=url, attempts=1) == 75
    assert "nothing answers" in runner.error()
    with openai_server(Behaviour(model="another")) as url:
        assert runner.measure("sha256:" + "4" * 64, endpoint=url) == 2
        assert "serves another, and not 'toy'" in runner.error()
    assert runner.measure("", endpoint=url) == 2
    assert runner.measurements() == before


def test_an_edited_suite_is_measured_anew(runner: Runner) -> None:
    first = measured(runner, "sha256:" + "5" * 64, Behaviour())
    edited = {**runner.suite.files, "text/03-third.txt": "Another line.\n"}
    runner.suite = runner.suite.model_copy(update={"files": edited})
    assert measured(runner, "sha256:" + "5" * 64, Behaviour()).fingerprint != first.fingerprint


def test_a_large_suite_comes_out_of_the_store(runner: Runner, tmp_path: Path) -> None:
    """A copy of a suite with its data: the request stays small."""
    shutil.copytree(suites.SHIPPED / "bfcl", tmp_path / "bfcl")
    copied = suites.read(str(tmp_path / "bfcl"))
    assert not copied.shipped
    store = Store.open(runner.location, runner.settings)
    check = copied.parameters(action="check")
    assert isinstance(runner.run(check, copied.options(store.put_bytes)), StepResult), runner.done
    assert (tmp_path / "request.json").stat().st_size < 10_000


def test_judge_needs_two_measurements(runner: Runner) -> None:
    assert runner.run(runner.suite.parameters(action="judge", subject="x"), runner.suite.options()) == 2
    assert "needs a measurement as its input 'candidate'" in runner.error()
