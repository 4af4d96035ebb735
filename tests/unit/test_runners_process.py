"""The process launcher: which settings and secrets a step gets, and what its exit means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from containers.contract import Step, StepRequest, StepResult
from containers.errors import Interrupted, StepFailed
from containers.events import Event
from containers.settings import StepSettings
from flows.runners.process import launcher as process_launcher
from flows.runners.process.launcher import ProcessLauncher, run_folder, step_environment
from flows.runners.step_protocol import StepOutput, read_result, step_failure
from infra.environments.environment import Environment
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        cache=tmp_path / "cache",
        hub_token=SecretStr("hf_hubsecret"),
        notify_webhook=SecretStr("http://127.0.0.1/websecret"),
        store={"endpoint": "http://127.0.0.1:1", "access_key_id": "id", "secret_access_key": "storesecret"},
        registry={"username": "me", "password": "registrysecret"},
    )


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(folder=tmp_path / "env", modules=tmp_path / "modules")


@pytest.mark.parametrize(
    ("step", "asked", "secrets"),
    [
        (Step.DOWNLOAD, {}, {"hf_hubsecret", "storesecret"}),
        (Step.QUANTIZE, {}, {"storesecret"}),
        (Step.PUSH, {}, {"storesecret", "registrysecret"}),
        (Step.EVALUATE, {}, {"storesecret"}),
        (Step.EVALUATE, {"options": {"tokenizer_reference": "r/a@sha256:0"}}, {"storesecret", "registrysecret"}),
        (Step.SERVE, {"options": {"stage": "fetch"}}, {"storesecret"}),
        (Step.SERVE, {"options": {"stage": "fetch"}, "parameters": {"reference": "r/a@sha256:0"}}, {"registrysecret"}),
        (Step.SERVE, {"options": {"stage": "serve"}}, set()),
        (Step.SERVE, {"options": {"stage": "serve"}, "parameters": {"reference": "r/a@sha256:0"}}, set()),
        (Step.SERVE, {"options": {"folder": "/mnt/models"}, "parameters": {"reference": "r/a@sha256:0"}}, set()),
    ],
)
def test_a_step_gets_the_secrets_it_needs_and_no_others(
    settings: Settings, environment: Environment, tmp_path: Path, step: Step, asked: Any, secrets: set[str]
) -> None:
    variables = step_environment(settings, StepRequest(step=step, run="r", **asked), environment, tmp_path)
    every = {"hf_hubsecret", "storesecret", "registrysecret", "websecret"}
    assert {secret for secret in every if any(secret in value for value in variables.values())} == secrets


def test_who_wants_nothing_of_a_registry_gets_no_login(
    settings: Settings, environment: Environment, tmp_path: Path
) -> None:
    """Evaluate runs generated code, and needs a registry for a modelcar's tokenizer only."""
    variables = step_environment(settings, StepRequest(step=Step.EVALUATE, run="r"), environment, tmp_path)
    assert not [name for name, value in variables.items() if "registrysecret" in value or "REGISTRY" in name]


def test_settings_arrive_in_the_step_as_they_were(
    settings: Settings, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"registry": settings.registry.model_copy(update={"plain_http": ("a:1",)})})
    for name, value in step_environment(settings, StepRequest(step=Step.PUSH, run="r"), environment, tmp_path).items():
        monkeypatch.setenv(name, value)
    arrived = StepSettings()
    assert arrived.registry == settings.registry
    assert arrived.store == settings.store
    assert arrived.home == settings.home.resolve()


def test_nothing_of_prefect_reaches_a_step(
    settings: Settings, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", "/somewhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "leak")
    variables = step_environment(settings, StepRequest(step=Step.QUANTIZE, run="r"), environment, tmp_path)
    assert not [name for name in variables if name.startswith(("PREFECT", "AWS"))]


def test_a_steps_own_words_become_the_error() -> None:
    said = [Event(event="error", message="config.json is missing", remedy="add it", exit_code=2)]
    error = step_failure(Step.DOWNLOAD, 2, said, "", "its log")
    assert isinstance(error, StepFailed)
    assert (error.exit_code, error.temporary, error.message) == (2, False, "config.json is missing")
    assert "add it" in error.remedy


def test_exit_75_is_temporary_and_130_an_interruption() -> None:
    said = [Event(event="error", message="no")]
    temporary = step_failure(Step.PUSH, 75, said, "", "its log")
    assert temporary.temporary
    assert isinstance(step_failure(Step.PUSH, 130, said, "", "its log"), Interrupted)


def test_a_killed_step_is_named_by_its_signal() -> None:
    error = step_failure(Step.QUANTIZE, 137, [], "some output", "its log")
    assert "SIGKILL" in error.message
    assert not error.temporary
    assert step_failure(Step.QUANTIZE, -9, [], "", "its log").exit_code == 137, "of a supervisor that was killed"


def test_a_line_that_cannot_be_passed_on_is_remembered() -> None:
    """The step goes on, and its failure is told with its own words."""

    def listen(event: Event) -> None:
        raise ValueError("a listener's trouble")

    output = StepOutput(listen)
    output.line('{"event": "error", "message": "no such architecture"}')
    assert output.failure(Step.SERVE, 1, "its log").message == "no such architecture"


def test_an_interruption_is_no_listener_s_trouble() -> None:
    """A signal's handler may raise while a line is passed on."""

    def listen(event: Event) -> None:
        raise Interrupted("the parent run has ended it")

    with pytest.raises(Interrupted):
        StepOutput(listen).line("a line")


def test_a_step_without_an_error_is_told_by_its_last_lines() -> None:
    """However much it has written before."""
    output = StepOutput(lambda event: None)
    for number in range(1000):
        output.line(f"line {number}")
    message = output.failure(Step.PUSH, 1, "its log").message
    assert "line 999" in message
    assert "line 900" not in message


def test_want_of_memory_is_told_unless_the_step_said_why_it_ended() -> None:
    """What the kernel ended may have been a child of it, which the step noticed."""
    output = StepOutput(lambda event: None)
    error = output.out_of_memory(Step.QUANTIZE, 137, "its limit of 2 GiB", "its log")
    assert "more memory than its limit of 2 GiB" in error.message
    assert "CARWRIGHT_RESOURCES__QUANTIZE__MEMORY_GIB" in error.remedy
    output.line('{"event": "error", "message": "a worker ended", "exit_code": 75}')
    assert output.out_of_memory(Step.QUANTIZE, 75, "its limit of 2 GiB", "its log").message == "a worker ended"


def test_a_step_that_ends_well_without_a_result_has_failed() -> None:
    with pytest.raises(StepFailed, match="no readable result"):
        read_result(None, Step.PUSH)
    with pytest.raises(StepFailed, match="surprise"):
        read_result(b'{"step": "push", "surprise": 1}', Step.PUSH)


_SCRIPT = """#!/bin/sh
while [ $# -gt 0 ]; do case $1 in --result) result=$2;; --request) request=$2;; esac; shift; done
echo '{"event": "progress", "task": "t", "done": 1, "total": 2, "unit": "B"}' >&2
touch "$TMPDIR/left-behind"
%s
"""


def _launcher(
    settings: Settings, environment: Environment, monkeypatch: pytest.MonkeyPatch, end: str
) -> ProcessLauncher:
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text(_SCRIPT % end)
    environment.python.chmod(0o755)
    monkeypatch.setattr(process_launcher, "prepare", lambda *_: environment)
    return ProcessLauncher(settings)


def test_events_are_forwarded_and_the_result_is_read(
    settings: Settings, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = 'echo \'{"step": "push", "metrics": {"n": 1}}\' > "$result"'
    launcher = _launcher(settings, environment, monkeypatch, end)
    heard: list[Event] = []
    result = launcher.run(StepRequest(step=Step.PUSH, run="r"), heard.append)
    assert result == StepResult(step=Step.PUSH, metrics={"n": 1})
    assert [(event.task, event.done) for event in heard] == [("t", 1)]
    assert not list(settings.home.rglob("left-behind"))


def test_scratch_space_of_a_killed_step_is_removed(
    settings: Settings, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = _launcher(settings, environment, monkeypatch, "kill -9 $$")
    with pytest.raises(StepFailed, match="SIGKILL"):
        launcher.run(StepRequest(step=Step.PUSH, run="r"), lambda _: None)
    assert not list(settings.home.rglob("left-behind"))


def test_each_start_has_a_folder_of_its_own(settings: Settings) -> None:
    request = StepRequest(step=Step.PUSH, run="r")
    assert run_folder(settings, request) != run_folder(settings, request)
