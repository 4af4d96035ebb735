"""Every single setting: that it is read, described, shown, and handed to the steps that use it and to no other."""

from __future__ import annotations

import json
import re
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from containers.contract import Step, StepRequest
from containers.errors import BadInput
from containers.setting_names import PREFIX, Setting, settings_of
from containers.settings import COMPOSE, FLOW_SIDE, StepSettings
from containers.step_variables import STEP_SETTINGS, step_variables
from flows.cli.main import app
from flows.local.dry_run.site import Site
from infra.settings import Settings
from infra.settings_file import NEVER, WITH
from infra.settings_page import page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVERY = list(settings_of(Settings))
OF_STEPS = list(settings_of(StepSettings))
_ALWAYS = {"home", "cache", "log_format"}

every_setting = pytest.mark.parametrize("setting", EVERY, ids=lambda one: one.variable)
every_setting_of_steps = pytest.mark.parametrize("setting", OF_STEPS, ids=lambda one: one.variable)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def other(setting: Setting) -> tuple[str, Any]:
    """A text that sets it to something else than its default, and the value that comes of it."""

    def choose(kind: Any) -> tuple[str, Any]:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return choose(arguments[0])
        if origin in {Union, types.UnionType}:
            return choose(next(one for one in arguments if one is not type(None)))
        if origin is Literal:
            value = next(one for one in arguments if one != setting.field.default)
            return value, value
        if origin is dict:
            return '{"a": "b"}', {"a": "b"}
        if origin is tuple:
            return '["a", "b"]', ("a", "b")
        if kind is bool:
            return ("false", False) if setting.field.default else ("true", True)
        if kind in {int, float}:
            value = kind((setting.field.default or 0) + 1)
            return str(value), value
        return "other", kind("other")

    return choose(setting.field.annotation)


def leaf(values: Any, setting: Setting) -> Any:
    for name in setting.path:
        values = values[name]
    return values


def changed(settings: Settings) -> set[str]:
    """The variables of all settings that are not as they are by themselves."""
    usual, now = Settings().model_dump(), settings.model_dump()
    return {one.variable for one in EVERY if leaf(usual, one) != leaf(now, one)}


def test_there_are_settings_to_check() -> None:
    """The trees were walked to their ends: no setting is a section itself."""
    assert {setting.path[0] for setting in EVERY} == set(Settings.model_fields)
    assert {setting.path[0] for setting in OF_STEPS} == set(StepSettings.model_fields)
    assert not [setting.variable for setting in EVERY if hasattr(setting.field.annotation, "model_fields")]


@every_setting
def test_it_is_read_from_its_variable(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else changes by it."""
    text, value = other(setting)
    with monkeypatch.context() as environment:
        environment.setenv(setting.variable, text)
        settings = Settings()
    assert setting.value(settings) == value
    assert changed(settings) == {setting.variable}


@every_setting
def test_it_is_read_from_a_file_of_that_name(setting: Setting, tmp_path: Path) -> None:
    text, value = other(setting)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / setting.variable).write_text(f"{text}\n")
    assert setting.value(Settings(_secrets_dir=secrets)) == value


@pytest.mark.parametrize(
    "setting", [one for one in EVERY if one.variable not in WITH | NEVER], ids=lambda one: one.variable
)
def test_it_is_read_from_carwright_toml(setting: Setting, tmp_path: Path) -> None:
    """What it may not decide: tests/unit/test_settings_file.py."""
    _, value = other(setting)
    if isinstance(value, dict):
        line = '{ "a" = "b" }'
    elif isinstance(value, (int, float, tuple)):
        line = json.dumps(value)
    else:
        line = json.dumps(value.get_secret_value() if isinstance(value, SecretStr) else str(value))
    (tmp_path / "carwright.toml").write_text(f"{'.'.join(setting.path)} = {line}\n")
    assert setting.value(Settings()) == value


@every_setting
def test_it_is_described(setting: Setting) -> None:
    assert setting.field.description


@pytest.fixture(scope="module")
def shown() -> list[str]:
    """What `carwright settings` prints with nothing set."""
    return CliRunner().invoke(app, ["settings"]).output.splitlines()


@every_setting
def test_it_is_shown_with_its_default(setting: Setting, shown: list[str]) -> None:
    """The default of the declaration, under its whole name, and on the next line what it means."""
    default = leaf(Settings().model_dump(mode="json"), setting)
    assert setting.value(Settings()) == setting.field.get_default(call_default_factory=True)
    assert shown[shown.index(f"{setting.variable} = {default}") + 1].strip() == setting.field.description


@every_setting
def test_either_steps_know_it_or_they_pass_it_over(setting: Setting) -> None:
    """FLOW_SIDE, which names what a step passes over, holds all that the flow side alone has, and nothing of a step's."""
    known = setting.variable in {one.variable for one in OF_STEPS}
    over = any(setting.variable == name or setting.variable.startswith(f"{name}__") for name in FLOW_SIDE)
    assert known != over


def test_nothing_is_passed_over_that_nobody_has() -> None:
    names = {setting.variable for setting in EVERY}
    assert not [name for name in FLOW_SIDE if not any(one == name or one.startswith(f"{name}__") for one in names)]


def test_the_table_of_what_steps_are_handed_names_parts_of_the_tree() -> None:
    assert set(STEP_SETTINGS) == set(Step)
    assert set().union(*STEP_SETTINGS.values()) | _ALWAYS == set(StepSettings.model_fields)


def requests(step: Step) -> Iterator[StepRequest]:
    yield StepRequest(step=step, run="r")
    if step is Step.EVALUATE:
        yield StepRequest(step=step, run="r", options={"tokenizer_reference": "registry/a@sha256:0"})
    if step is Step.SERVE:
        yield StepRequest(step=step, run="r", parameters={"reference": "registry/a@sha256:0"})
        yield StepRequest(step=step, run="r", options={"stage": "serve"})
    if step is Step.PUSH:
        yield StepRequest(step=step, run="r", parameters={"action": "promote"})


def unused(request: StepRequest) -> set[str]:
    """What of its step's parts this very request has no use for."""
    if request.step is Step.SERVE:
        if request.options:
            return {"store", "registry", "docker_config"}
        return {"store"} if request.parameters else {"registry", "docker_config"}
    if request.step is Step.PUSH:
        return set() if request.parameters else {"sign"}
    return {"registry", "docker_config"} if request.step is Step.EVALUATE and not request.options else set()


_AS_CONTENTS = (("sign", "key_file"), ("sign", "public_key"), ("sign", "keyless"), ("sign", "identity_token_file"))


def test_files_with_keys_go_as_their_contents(tmp_path: Path) -> None:
    """A step may run where the files are not; and a private key is a secret, to the promote step alone."""
    (tmp_path / "a.key").write_text("a private key")
    (tmp_path / "a.pub").write_text("a public key")
    settings = Settings(sign={"key": "another", "key_file": tmp_path / "a.key", "public_key": str(tmp_path / "a.pub")})
    plain, secret = step_variables(settings, StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"}))
    assert plain == {"CARWRIGHT_SIGN__PUBLIC_KEY": "a public key"}
    assert secret == {"CARWRIGHT_SIGN__KEY": "another\na private key"}
    for step in Step:
        assert step_variables(settings, StepRequest(step=step, run="r")) == ({}, {})


def test_a_token_goes_to_the_step_that_signs_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read at the last moment, since it is good for minutes; and none is looked for where nothing is signed with it."""
    (tmp_path / "trust.json").write_text('{"a": 1}')
    (tmp_path / "token").write_text("a.b.c\n")
    promote = StepRequest(step=Step.PUSH, run="r", parameters={"action": "promote"})
    given: dict[str, Any] = {"keyless": str(tmp_path / "trust.json"), "identity_token_file": tmp_path / "token"}
    plain, secret = step_variables(Settings(sign=given), promote)
    assert plain == {"CARWRIGHT_SIGN__KEYLESS": '{"a": 1}'}
    assert secret == {"CARWRIGHT_SIGN__IDENTITY_TOKEN": "a.b.c"}
    for name in ("GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITLAB_CI", "BUILDKITE", "CIRCLECI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.delenv("SIGSTORE_ID_TOKEN", raising=False)
    with pytest.raises(BadInput, match="SIGSTORE_ID_TOKEN not found"):
        step_variables(Settings(sign={"keyless": "public"}), promote)
    assert step_variables(Settings(sign={"identity_token_file": tmp_path / "token"}), promote) == ({}, {})
    for step in Step:
        assert step_variables(Settings(sign=given), StepRequest(step=step, run="r")) == ({}, {})


@every_setting_of_steps
def test_a_step_is_handed_it_if_it_uses_it(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds it as it was; who does not use it never sees it, as a secret or otherwise."""
    if setting.path in _AS_CONTENTS:
        return
    text, value = other(setting)
    with monkeypatch.context() as environment:
        environment.setenv(setting.variable, text)
        settings = Settings()
    for step in Step:
        for request in requests(step):
            plain, secret = step_variables(settings, request)
            if not set(plain) | set(secret):
                part = setting.path[0]
                assert part not in STEP_SETTINGS[step] or part in unused(request)
                continue
            # Where a store is a folder of this machine, the files of a modelcar's layers may be there.
            place = setting.variable == "CARWRIGHT_STORE__DIRECT" and request.step is Step.SERVE and request.parameters
            assert setting.path[0] not in unused(request) or place
            assert set(secret if isinstance(value, SecretStr) else plain) == {setting.variable}
            assert setting.path[0] in {*STEP_SETTINGS[step], *_ALWAYS}
            with monkeypatch.context() as environment:
                for name, given in (plain | secret).items():
                    environment.setenv(name, given)
                assert setting.value(StepSettings()) == value


def test_a_step_is_handed_nothing_that_nobody_has_set() -> None:
    """So an image of another version meets no name that nobody uses."""
    for step in Step:
        assert step_variables(Settings(), StepRequest(step=step, run="r")) == ({}, {})


def test_a_default_that_somebody_asks_for_is_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another one in an image of another version."""
    monkeypatch.setenv("CARWRIGHT_REGISTRY__PARALLEL", "4")
    assert step_variables(Settings(), StepRequest(step=Step.PUSH, run="r"))[0] == {"CARWRIGHT_REGISTRY__PARALLEL": "4"}


def test_a_step_passes_over_what_is_for_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Variables of the flow side and of Compose, whatever they hold, and the file carwright.toml."""
    for setting in EVERY:
        if setting.variable not in {one.variable for one in OF_STEPS}:
            monkeypatch.setenv(setting.variable, other(setting)[0])
    for name in COMPOSE:
        monkeypatch.setenv(name, "x")
    (tmp_path / "carwright.toml").write_text('home = "/elsewhere"\n[docker]\nhost = "tcp://elsewhere:1"\n')
    assert StepSettings().model_dump() == StepSettings.model_construct().model_dump()


@pytest.mark.parametrize(
    "name", ["CARWRIGHT_STORE__TIER", "CARWRIGHT_SERVE__SPEED", "CARWRIGHT_NEW", "CARWRIGHT_NEW__ONE"]
)
def test_a_step_refuses_what_it_was_told_and_does_not_know(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(BadInput, match=f"{name} is not a setting") as caught:
        StepSettings()
    assert "another version" in caught.value.remedy


def refusal(read: Callable[[], object]) -> str:
    """The message that it is refused with."""
    with pytest.raises(BadInput) as caught:
        read()
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CARWRIGHT_HOEM", "CARWRIGHT_HOME"),
        ("CARWRIGHT_KUBERNETES_NAMESPACE", "CARWRIGHT_KUBERNETES__NAMESPACE"),
        ("CARWRIGHT_STORE__BUCKIT", "CARWRIGHT_STORE__BUCKET"),
        ("CARWRIGHT_HUB__TOKEN", "CARWRIGHT_HUB_TOKEN"),
        ("CARWRIGHT_RESOURCES__QUANTISE__GPUS", "CARWRIGHT_RESOURCES__QUANTIZE__GPUS"),
        ("carwright_laucher", "CARWRIGHT_LAUNCHER"),
    ],
)
def test_a_name_that_is_no_setting_is_refused_with_the_nearest(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a variable, as a file with a secret and in carwright.toml."""
    with monkeypatch.context() as environment:
        environment.setenv(name, "x")
        expected = f"{name.upper()} is not a setting; did you mean {nearest}?"
        assert [refusal(Settings), refusal(Site.read)] == [expected, expected]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / name).write_text("x")
    expected = f"{name.upper()} in {secrets} is not a setting; did you mean {nearest}?"
    assert refusal(lambda: Settings(_secrets_dir=secrets)) == expected
    path, meant = (one.upper().removeprefix(PREFIX).lower().replace("__", ".") for one in (name, nearest))
    (tmp_path / "carwright.toml").write_text(f"{path} = 1\n")
    assert refusal(Settings) == f"{path} in carwright.toml is not a setting; did you mean {meant}?"


def test_a_setting_has_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARWRIGHT_HOME__X", "1")
    assert refusal(Settings) == "CARWRIGHT_HOME__X is not a setting; did you mean CARWRIGHT_HOME?"


def test_a_name_like_none_is_refused_without_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARWRIGHT_XYZZY", "1")
    assert refusal(Settings) == "CARWRIGHT_XYZZY is not a setting"


def test_the_command_refuses_it_with_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARWRIGHT_HOEM", "1")
    result = CliRunner().invoke(app, ["settings"])
    assert isinstance(result.exception, BadInput)
    assert result.exception.exit_code == 2
    assert "did you mean CARWRIGHT_HOME?" in result.exception.message


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("CARWRIGHT_DOCKER__MEMORY_GIB__QUANTIZE", "CARWRIGHT_RESOURCES__QUANTIZE__MEMORY_GIB"),
        ("CARWRIGHT_DOCKER__GPUS", "CARWRIGHT_RESOURCES__<STEP>__GPUS"),
        ("CARWRIGHT_KUBERNETES__CPUS__*", "CARWRIGHT_RESOURCES__ALL__CPUS"),
        ("CARWRIGHT_KUBERNETES__SCRATCH_GIB", "CARWRIGHT_RESOURCES__<STEP>__SCRATCH_GIB"),
    ],
)
def test_a_former_table_of_resources_is_refused_with_its_new_name(
    name: str, now: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    assert refusal(Settings) == f"{name} is called {now} now"


def test_a_former_table_in_carwright_toml_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "carwright.toml").write_text("[docker]\ngpus = { quantize = 1 }\n")
    assert refusal(Settings) == "docker.gpus.quantize in carwright.toml is called resources.quantize.gpus now"


def test_a_section_may_be_given_as_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARWRIGHT_RESOURCES", '{"quantize": {"gpus": -1}, "all": {"cpus": 2}}')
    monkeypatch.setenv("CARWRIGHT_RESOURCES__SERVE__GPUS", "2")
    monkeypatch.setenv("CARWRIGHT_DOCKER__EXTRA_HOSTS__STORE", "10.0.0.1")
    settings = Settings()
    assert [settings.resources.of(step).gpus for step in (Step.QUANTIZE, Step.SERVE, Step.PUSH)] == [-1, 2, None]
    assert {settings.resources.of(step).cpus for step in Step} == {2}
    assert settings.docker.extra_hosts == {"store": "10.0.0.1"}


def test_the_variables_of_compose_are_those_that_its_files_have(root: Path) -> None:
    """Besides the index of PyTorch, which is a setting."""
    files = [root / "infra" / name for name in ("compose.yaml", "compose.gpu.yaml", ".env")]
    named = set(re.findall(r"\$\{(CARWRIGHT_\w+)", "".join(file.read_text() for file in files)))
    assert named - {"CARWRIGHT_PIP_PYTORCH_INDEX_URL"} == set(COMPOSE)


def test_the_command_that_makes_pools_refuses_it_before_every_run_does() -> None:
    result = CliRunner().invoke(app, ["pools", "--env", "CARWRIGHT_STORE_ENDPOINT=http://store:9000"])
    assert isinstance(result.exception, BadInput)
    assert "did you mean CARWRIGHT_STORE__ENDPOINT?" in result.exception.message


def test_whoever_names_a_setting_names_one_that_there_is(root: Path) -> None:
    """Documents, files of infra, and what the product's own messages tell people to set; and the defaults that tables give."""
    files = [root / "README.md", root / "Containerfile", root / "Makefile", *(root / "docs").rglob("*.md")]
    for top in ("containers", "flows", "infra"):
        files += [file for file in (root / top).rglob("*") if file.suffix in {".py", ".yaml", ".json"}]
    known = {setting.variable: setting for setting in EVERY}
    tables = tuple(f"{setting.variable}__" for setting in EVERY if setting.is_table)
    defaults = []
    for file in files:
        text = file.read_text()
        for name in re.findall(r"CARWRIGHT_\w*[A-Z]", text):
            exists = (
                name in COMPOSE or name.startswith(tables) or any(f"{one}__".startswith(f"{name}__") for one in known)
            )
            assert exists, f"{file.relative_to(root)} names {name}"
        defaults += re.findall(r"^\| `(CARWRIGHT_\w+)` \|.*\| (\d+) \|$", text, re.MULTILINE)
    assert len(defaults) >= 3
    assert [(name, float(said)) for name, said in defaults] == [
        (name, known[name].field.default) for name, _ in defaults
    ]


def test_the_page_of_settings_is_up_to_date(root: Path) -> None:
    """`make docs` writes it."""
    assert (root / "docs" / "reference" / "settings.md").read_text() == page()
