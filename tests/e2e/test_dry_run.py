"""The dry run as its user runs it: our images under a real Prefect server, a container for each step, nothing left over."""

from __future__ import annotations

import re
import secrets
import shlex
import signal
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from containers.trust.keys import PrivateKey, new_key
from flows.local.dry_run.site import TARGETS
from flows.release.summary import Shipped
from tests.e2e.workspace import Workspace
from tests.support.canaries import CANARIES, SECRETS
from tests.support.container_watch import ContainerWatch
from tests.support.dry_run_world import SITE, DryRun, docker, need_images, until
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME = "models/smollm2-135m-instruct-fp8-dynamic"
PURE = ("download ", "quantize ", "evaluate ", "judge ")


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DryRun]:
    """The services, up, with a key that signs."""
    need_images(*TARGETS)
    stack = DryRun(
        tmp_path_factory.mktemp("dry-run"),
        project=f"dryrun-{secrets.token_hex(4)}",
        port=free_port(),
        registry=free_port(),
        store=free_port(),
        variables={name: value for name, value in CANARIES.items() if "SIGN__" in name},
    )
    try:
        started = stack.make("up", "--no-run")
        assert started.code == 0, started.stderr
        yield stack.logged_in()
    finally:
        taken = stack.make("down", "--volumes")
    assert taken.code == 0, taken.stderr
    project = f"label=com.docker.compose.project={stack.project}"
    assert docker("ps", "-aq", "--filter", project) == ""
    assert docker("volume", "ls", "-q", "--filter", project) == ""


@pytest.fixture(scope="module")
def watch(dry_run: DryRun) -> ContainerWatch:
    """What the engine shows of the first run."""
    return ContainerWatch()


@pytest.fixture(scope="module")
def shipped(dry_run: DryRun, watch: ContainerWatch) -> dict[str, Any]:
    """The outcome of the first run, by the command that follows it."""
    with watch:
        return dry_run.run("ship", "--profile", "local", "--json").json()


@pytest.fixture(scope="module")
def policy(dry_run: DryRun) -> str:
    """A policy file that wants what promotion signs, by the key of the dry run."""
    (key,) = PrivateKey.parse_all(CANARIES["CARWRIGHT_SIGN__KEY"], CANARIES["CARWRIGHT_SIGN__PASSWORD"], "key")
    (dry_run.folder / "release.pub").write_text(key.public.pem)
    (dry_run.folder / "other.pub").write_text(new_key("another")[1].pem)
    rules = "require: {statements: [signature, provenance, verdict, bom, model]}\ngate: {decisions: [pass]}\n"
    for name in ("release", "other"):
        (dry_run.folder / f"{name}.yaml").write_text(f"keys: [{{name: {name}, file: {name}.pub}}]\n{rules}")
    return "release.yaml"


def test_the_demo_is_shipped(dry_run: DryRun, shipped: dict[str, Any]) -> None:
    """By containers alone; the tag in the registry is the digest that was tested; nothing is left."""
    assert shipped["verdict"]["decision"] == "pass", shipped["verdict"]["reasons"]
    head = httpx.head(
        f"http://127.0.0.1:{dry_run.registry}/v2/{NAME}/manifests/{shipped['tags'][0]}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    assert head.headers["docker-content-digest"] == shipped["digest"]
    assert dry_run.none_left() == {}


def test_what_is_shipped_is_signed(dry_run: DryRun, shipped: dict[str, Any], policy: str) -> None:
    """Under the name that this machine has for the registry; a policy with another key refuses it."""
    reference = f"127.0.0.1:{dry_run.registry}/{NAME}@{shipped['digest']}"
    ended = dry_run.run("verify", reference, "--policy", policy)
    assert (ended.code, "verdict: signed by release" in ended.stdout) == (0, True), ended.stderr
    refused = dry_run.run("verify", reference, "--policy", "other.yaml")
    assert refused.code == 5, refused.stderr


def test_the_key_is_seen_by_what_promotes_and_is_nowhere_else(
    dry_run: DryRun, shipped: dict[str, Any], watch: ContainerWatch
) -> None:
    """Not in what the engine shows of any container, in any log, in Prefect's database, the store or the registry."""
    seen = watch.of(dry_run.project)
    volume = f"{dry_run.project}-signing"
    mounted = [name for name, one in seen.items() if volume in [mount.get("Name") for mount in one["Mounts"]]]
    assert len(seen) > 8, sorted(seen)
    (promoted,) = mounted
    assert f"{dry_run.project}-push-" in promoted
    assert not next(one for one in seen[promoted]["Mounts"] if one.get("Name") == volume)["RW"]
    told = watch.text(dry_run.project)
    services = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={dry_run.project}").split()
    for service in services:
        about = docker("inspect", service)
        told[about] = about.encode()
        kept = subprocess.run(["docker", "logs", service], capture_output=True, check=True)
        told[f"log of {service}"] = kept.stdout + kept.stderr
        if "/var/lib/carwright" in about:  # the database, the store, the registry
            told[f"volume of {service}"] = subprocess.run(
                ["docker", "cp", f"{service}:/var/lib/carwright", "-"], capture_output=True, check=True
            ).stdout
    assert sum(where.startswith("volume of") for where in told) >= 3
    assert any(b"quantize-and-ship" in content for where, content in told.items() if where.startswith("volume of"))
    secrets_ = [value.encode() for value in SECRETS]
    assert [where for where, content in told.items() if any(one in content for one in secrets_)] == []


@pytest.mark.campaign
def test_what_is_shipped_is_served_under_the_policy(dry_run: DryRun, shipped: dict[str, Any], policy: str) -> None:
    """By a deployment on the engine, which finds it again, and compares its files again; with another key it does not start."""
    reference = f"127.0.0.1:{dry_run.registry}/{NAME}@{shipped['digest']}"
    here = replace(
        dry_run,
        variables={"CARWRIGHT_LAUNCHER": "docker", "CARWRIGHT_DOCKER__IMAGE": f"{SITE.images_}/{{target}}:{SITE.tag}"}
        | {"CARWRIGHT_DOCKER__PROJECT": dry_run.project},
    )
    options = ("--gpu", "cpu", "--max-model-len", "512", "--port", str(free_port()), "--name", "demo")
    refused = here.run("deploy", "docker", reference, "--policy", "other.yaml", *options)
    assert refused.code == 5, refused.stderr
    assert here.containers(step="serve") == []
    try:
        for again in (False, True):
            served = here.run("deploy", "docker", reference, "--policy", policy, *options)
            assert served.code == 0, served.stderr
            assert ("files are what was signed" in served.stderr) or not again, served.stderr
        assert len(here.containers(part="server")) == 1
    finally:
        cleaned = here.run("clean")
    assert cleaned.code == 0, cleaned.stderr
    assert dry_run.none_left() == {}


def test_the_commands_of_the_summary_and_the_card_run_as_printed(dry_run: DryRun, shipped: dict[str, Any]) -> None:
    """On the host, which knows the registry by another name than the steps: the page, the card, a manifest, and a model that answers."""
    facts = dict(Shipped.model_validate(shipped).facts())
    page = dry_run.run(*shlex.split(facts["report"])[1:])
    assert page.code == 0, page.stderr
    assert shipped["digest"] in (dry_run.folder / page.stdout.strip()).read_text()
    card = dry_run.run("card", facts["modelcar"])
    (render,) = (line for line in card.stdout.splitlines() if line.startswith("carwright render "))
    rendered = dry_run.run(*shlex.split(render)[1:])
    assert rendered.code == 0, rendered.stderr
    assert shipped["digest"] in rendered.stdout
    serving = dry_run.start(*shlex.split(facts["serve it"])[1:], "--port", "0")  # something else may have 8000
    try:
        assert serving.stdout is not None
        told = serving.stdout.readline()
        assert told.startswith("serving "), (told, serving.poll() is not None and serving.communicate()[1])
        (url,) = re.findall(r"http://\S+", told)
        assert httpx.get(f"{url}/models", timeout=60).json()["data"]
    finally:
        serving.send_signal(signal.SIGINT)
        _, said = serving.communicate(timeout=120)
    assert serving.returncode == 130, said
    assert Workspace.none_left(dry_run) == {}, "processes on the host"
    assert dry_run.none_left() == {}


def test_the_digest_is_that_of_the_steps_without_containers(
    dry_run: DryRun, shipped: dict[str, Any], workspace: Workspace
) -> None:
    """The same model, quantized and pushed by processes of this machine, into a layout."""
    quantized = workspace.run("quantize", "--output", "model")
    assert quantized.code == 0, quantized.stderr
    pushed = workspace.run("push", "model", "oci:image", "--json")
    assert pushed.json()["reference"].rpartition("@")[2] == shipped["digest"]


def test_prefects_own_command_starts_another_run_which_is_all_cached(dry_run: DryRun, shipped: dict[str, Any]) -> None:
    started = dry_run.prefect("deployment", "run", "quantize-and-ship/local", "--watch")
    assert started.code == 0, started.stdout
    states = dry_run.tasks(dry_run.last_run())
    pure = {name: state for name, state in states.items() if name.startswith(PURE)}
    assert set(pure.values()) == {"Cached"}, states
    assert len(pure) == 5, states  # two measurements
    assert not [name for name in states if name.startswith("deploy ")]
    assert dry_run.none_left() == {}


@pytest.mark.parametrize("step", ["quantize", pytest.param("serve", marks=pytest.mark.campaign), "evaluate"])
def test_cancelled_in_the_ui_leaves_no_container(dry_run: DryRun, shipped: dict[str, Any], step: str) -> None:
    run = dry_run.start_run(force=True)
    assert until(lambda: bool(dry_run.containers(step=step)), 300), dry_run.state(run)
    dry_run.cancel(run)
    assert dry_run.ended(run, 120) == "CANCELLED"
    assert dry_run.none_left() == {}


def test_bad_input_ends_a_run_with_its_own_code_and_words(dry_run: DryRun, shipped: dict[str, Any]) -> None:
    ended = dry_run.run("run", "-p", "model=hf://nobody/nothing")
    assert ended.code == 2, ended.stderr
    assert "nobody/nothing" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert dry_run.none_left() == {}
    for wrong, said in (("modle=hf://a/b", "did you mean model?"), ("max_model_len=many", "max_model_len")):
        refused = dry_run.run("run", "-p", wrong)
        assert refused.code == 2, refused.stderr
        assert said in refused.stderr


def test_a_killed_worker_takes_no_run_with_it_and_is_missed_by_the_next(
    dry_run: DryRun, shipped: dict[str, Any]
) -> None:
    """A run that it started goes on to its end; one without a worker is told within a minute and does not wait."""
    names = docker("ps", "--filter", f"label=com.docker.compose.project={dry_run.project}", "--format", "{{.Names}}")
    worker = next(name for name in names.split() if "worker" in name)
    run = dry_run.start_run()
    assert until(lambda: dry_run.state(run) == "RUNNING", 120)
    docker("kill", worker)
    assert dry_run.ended(run) == "COMPLETED"
    assert dry_run.none_left() == {}
    try:
        began = time.monotonic()
        missed = dry_run.run("run")
        assert missed.code == 75, missed.stderr
        assert "carwright-cpu" in missed.stderr
        assert time.monotonic() - began < 120  # a minute, on a machine that does other things, too
    finally:
        docker("start", worker)
    assert dry_run.none_left() == {}


def test_a_server_that_is_not_there_is_told_in_one_line(dry_run: DryRun) -> None:
    nowhere = replace(dry_run, port=free_port())
    ended = nowhere.run("run")
    assert ended.code == 75
    assert nowhere.api in ended.stderr
    assert "Traceback" not in ended.stderr
