"""The whole chain on the demo model, with the real engines, as a user would run it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard

from containers.process import start_time
from containers.trust.keys import PrivateKey, new_key
from infra.demo import demo_hub
from infra.settings import Settings
from tests.e2e.kills import STEPS, kill_in
from tests.support import sabotage, vllm_server
from tests.support.canaries import CANARIES, SECRETS
from tests.support.local_registry import LocalRegistry

if TYPE_CHECKING:
    from tests.e2e.workspace import Ended, Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]


def test_the_demo_is_shipped(first: Workspace, shipped: dict[str, Any]) -> None:
    """Half the size, a passing verdict, a tag, and nothing left running."""
    assert shipped["verdict"]["decision"] == "pass", shipped["verdict"]["reasons"]
    assert len(shipped["tags"]) == 1
    assert shipped["size_after"] < 0.8 * shipped["size_before"]
    assert [step["name"] for step in shipped["steps"]] == [
        "resolve", "download", "quantize", "push", "baseline", "evaluate", "judge", "promote",
    ]  # fmt: skip
    assert first.none_left() == {}


def test_no_secret_is_left_anywhere(
    first: Workspace, first_run: tuple[Ended, set[str]], shipped: dict[str, Any]
) -> None:
    """Not in state, logs, the image, Prefect's database, the output, or the command lines of the processes."""
    ended, lines = first_run
    assert len(lines) > 5, "the run was watched"
    login = (first.home / "prefect" / "login").read_text().strip().encode()
    secrets = [login, *(value.encode() for value in SECRETS)]
    told = {"the output": (ended.stdout + ended.stderr).encode(), "a command line": "\n".join(lines).encode()}
    for path in first.folder.rglob("*"):
        if path.is_file() and path != first.home / "prefect" / "login":
            told[str(path)] = path.read_bytes()
    assert first.home / "prefect" / "prefect.db" in map(Path, told)
    found = [(where, secret) for where, content in told.items() for secret in secrets if secret in content]
    assert found == []


def test_what_is_shipped_is_signed(first: Workspace, shipped: dict[str, Any]) -> None:
    """By the key of the user who shipped it, and by nobody else's."""
    (key,) = PrivateKey.parse_all(CANARIES["CARWRIGHT_SIGN__KEY"], CANARIES["CARWRIGHT_SIGN__PASSWORD"], "key")
    (first.folder / "release.pub").write_text(key.public.pem)
    (first.folder / "policy.yaml").write_text(
        "keys: [{name: release, file: release.pub}]\nrequire: {statements: [signature, provenance, model]}\n"
        "recipe: {schemes: [FP8_DYNAMIC]}\n"
    )
    ended = first.run("verify", shipped["reference"], "--policy", "policy.yaml")
    assert (ended.code, "provenance: signed by release" in ended.stdout) == (0, True), ended.stderr
    (first.folder / "release.pub").write_text(new_key("another")[1].pem)
    refused = first.run("verify", shipped["reference"], "--policy", "policy.yaml")
    assert refused.code == 5
    assert "has no signature signed as the policy demands" in refused.stderr


def test_the_second_run_does_nothing_twice(first: Workspace, shipped: dict[str, Any]) -> None:
    """Pure steps are cached, effects found in place, the digest is the same."""
    again = first.run("ship", "--json").json()
    states = {step["name"]: step["state"] for step in again["steps"]}
    assert states == {
        "resolve": "found",
        "download": "cached",
        "quantize": "cached",
        "push": "in place",
        "baseline": "cached",
        "evaluate": "cached",
        "judge": "cached",
        "promote": "in place",
    }
    assert again["digest"] == shipped["digest"]


def test_runs_are_listed(first: Workspace, shipped: dict[str, Any]) -> None:
    records = json.loads(first.run("runs", "--json").stdout)
    assert records[-1]["state"] == "shipped"
    assert records[-1]["shipped"]["digest"] == shipped["digest"]


def test_skopeo_reads_the_layout_and_tar_unpacks_a_checkpoint(
    first: Workspace, shipped: dict[str, Any], tmp_path: Path
) -> None:
    """Other people's tools find the promoted tag, the tested digest, and files that are a checkpoint."""
    model = _unpacked(first, shipped, tmp_path)
    assert (
        json.loads((model / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
    )
    python = next((Path("~/.cache/carwright/envs").expanduser()).glob("quantize-*/bin/python"))
    answer = subprocess.run([str(python), "-c", _GENERATE, str(model)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "Paris" in answer.stdout


def _unpacked(first: Workspace, shipped: dict[str, Any], folder: Path) -> Path:
    """The checkpoint in the promoted image, by skopeo's word on the manifest and plain tar."""
    layout = first.folder / shipped["reference"].removeprefix("oci:").partition("@")[0]
    inspected = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{layout}:{shipped['tags'][0]}"], capture_output=True, check=True
    ).stdout
    assert shipped["digest"] == "sha256:" + _sha256sum(inspected)
    manifest = json.loads(inspected)
    for layer in manifest["layers"]:
        with tarfile.open(layout / "blobs" / "sha256" / layer["digest"].partition(":")[2]) as tar:
            tar.extractall(folder, filter="tar")
    return folder / "models"


_GENERATE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": "What is the capital of France?"}]
asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**asked, max_new_tokens=12, do_sample=False)[0]))
"""


def _sha256sum(content: bytes) -> str:
    return subprocess.run(["sha256sum"], input=content, capture_output=True, check=True).stdout.decode().split()[0]


def test_the_card_says_how_to_make_and_to_measure_the_model_again(
    first: Workspace, shipped: dict[str, Any], tmp_path: Path
) -> None:
    """Its Python writes the tensors that were shipped, to the bit; its evaluation comes to the same numbers."""
    card = first.run("card", shipped["reference"]).stdout
    data = ModelCard(card).data
    assert (data.base_model, data.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert data.eval_results
    bom = json.loads(first.run("statement", "bom", shipped["reference"]).stdout)["predicate"]
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(bom)) is None
    page = first.run("report", shipped["reference"], "--output", str(tmp_path / "report.html"))
    assert page.code == 0, page.stderr
    assert shipped["digest"] in (tmp_path / "report.html").read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    (evaluation,) = (line for line in card.splitlines() if line.startswith("carwright eval "))
    cache = Path("~/.cache/carwright").expanduser()
    python = next((cache / "envs").glob("quantize-*/bin/python"))
    with demo_hub(cache, lambda event: None) as hub:
        at_hub = first.environment() | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf")}
        for argv, folder in (
            ([str(python), "-c", code], tmp_path),
            ([*first.command, *shlex.split(evaluation)[1:], "--output", str(tmp_path / "again.html")], first.folder),
        ):
            done = subprocess.run(argv, cwd=folder, env=at_hub, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.html").read_text().count(f"{shipped['verdict']['measures']['kl_mean']:.4g}") >= 2
    (theirs,) = (path for path in tmp_path.glob("*/model.safetensors") if path.parent.name != "hf")
    assert _bits(theirs) == _bits(_unpacked(first, shipped, tmp_path) / "model.safetensors")


def _bits(path: Path) -> dict[str, tuple[object, ...]]:
    """Type, shape and bytes of every tensor, by name."""
    content = path.read_bytes()
    return {
        name: (one.dtype, one.shape, content[one.start : one.end]) for name, one in sabotage.tensors(content).items()
    }


def test_keep_leaves_a_model_that_answers_and_clean_stops_it(first: Workspace, shipped: dict[str, Any]) -> None:
    kept = first.run("ship", "--keep", "--json").json()
    assert kept["digest"] == shipped["digest"]
    answer = httpx.post(
        f"{kept['endpoint']}/chat/completions",
        json={
            "model": kept["served_model_name"],
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 12,
            "temperature": 0,
        },
        timeout=120,
    )
    assert answer.json()["choices"][0]["message"]["content"].strip()
    assert any("containers.serve" in arguments for arguments in first.processes().values())
    itself = first.run("ship", "--baseline-endpoint", kept["endpoint"], "--candidate-endpoint", kept["endpoint"])
    assert itself.code == 2, itself.stderr
    assert "baseline and candidate are the same model" in itself.stderr
    cleaned = first.run("clean")
    assert kept["endpoint"] in cleaned.stdout
    assert first.none_left() == {}
    with pytest.raises(httpx.ConnectError):
        httpx.get(kept["endpoint"])


@pytest.mark.campaign
def test_running_servers_of_both_roles_are_measured(first: Workspace, shipped: dict[str, Any], tmp_path: Path) -> None:
    """Two vLLMs of the user's own: the same digest and verdict, and no vLLM of ours. One that ends in the middle of the suite is
    named, and the run goes on from there once it is back.
    """
    settings, candidate = Settings(), _unpacked(first, shipped, tmp_path / "unpacked")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    with vllm_server.served(settings, vllm_server.demo(settings), tmp_path / "a" / "log") as before:
        with vllm_server.served(settings, candidate, tmp_path / "b" / "log") as after:
            urls = ("--baseline-endpoint", before, "--candidate-endpoint", after)
            process = first.start("ship", *urls, "--json")
            seen: set[str] = set()
            while process.poll() is None:
                seen.update(first.processes().values())
                time.sleep(0.2)
            stdout, stderr = process.communicate()
            assert process.returncode == 0, stderr
            summary = json.loads(stdout)
            assert not any("containers.serve" in line for line in seen)
            assert any("containers.evaluate" in line for line in seen)
            process = first.start("ship", *urls, "--json")
            while _measured_at(first) != after:
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.1)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 75, stderr
        assert f"the server at {after} has ended while it was measured" in stderr
    assert (summary["digest"], summary["verdict"]["decision"]) == (shipped["digest"], "pass")
    states = {step["name"]: step["state"] for step in summary["steps"]}
    assert (states["quantize"], states["baseline"], states["evaluate"]) == ("cached", "done", "done")
    assert first.none_left() == {}


def _measured_at(workspace: Workspace) -> str:
    """The endpoint that an evaluate step asks at this moment; empty without one."""
    found = workspace.step_process("evaluate")
    return json.loads((found[1] / "request.json").read_text())["options"].get("endpoint", "") if found else ""


def test_the_raw_artifact_is_served_after_what_ilab_does(
    first: Workspace, shipped: dict[str, Any], workspace: Workspace
) -> None:
    """`ilab model download` copies the artifact with skopeo and links each blob by its title; vLLM serves the result."""
    model = _unpacked(first, shipped, workspace.folder)
    with LocalRegistry(workspace.folder / "registry") as host:
        pushed = workspace.run("push", str(model), f"{host}/models/demo:1.0", "--also", "raw")
        assert pushed.code == 0, pushed.stderr
        subprocess.run(
            ["skopeo", "copy", "--src-tls-verify=false", "--remove-signatures",
             f"docker://{host}/models/demo:1.0-raw", f"oci:{workspace.folder}/ilab"],
            check=True, capture_output=True,
        )  # fmt: skip
    blobs = workspace.folder / "ilab" / "blobs" / "sha256"
    index = json.loads((workspace.folder / "ilab" / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    linked = workspace.folder / "linked"
    linked.mkdir()
    for layer in manifest["layers"]:
        blob = blobs / layer["digest"].partition(":")[2]
        (linked / layer["annotations"]["org.opencontainers.image.title"]).hardlink_to(blob)
    process = workspace.start("serve", f"file://{linked}", "--port", "0", "--name", "raw", "--json")
    try:
        assert process.stdout is not None
        told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        assert told["served_model_name"] == "raw"
        question = [{"role": "user", "content": "What is the capital of France?"}]
        answer = httpx.post(
            f"{told['url']}/chat/completions",
            json={"model": "raw", "messages": question, "max_tokens": 12, "temperature": 0},
            timeout=120,
        )
        assert answer.json()["choices"][0]["message"]["content"].strip()
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert workspace.none_left() == {}


def test_a_damaged_candidate_is_refused_and_gets_no_tag(
    first: Workspace, shipped: dict[str, Any], workspace: Workspace
) -> None:
    """One layer of the quantized checkpoint is damaged in the store: the smoke suite must see it in the real vLLM."""
    shutil.copytree(first.home / "store", workspace.home / "store")
    damaged = subprocess.run(
        [workspace.command[0], str(Path(__file__).with_name("damage.py")), str(workspace.home / "store")],
        env=workspace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert damaged.returncode == 0, damaged.stderr
    ended = workspace.run("ship", "--json")
    assert ended.code == 3, ended.stderr
    record = json.loads(workspace.run("runs", "--json").stdout)[0]
    assert record["state"].startswith("failed")
    (layout,) = (workspace.home / "images").iterdir()
    index = json.loads((layout / "index.json").read_text())
    tags = [entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "") for entry in index["manifests"]]
    assert [tag for tag in tags if not tag.startswith("candidate-") and not tag.startswith("sha256-")] == [], tags
    assert workspace.none_left() == {}


def test_interrupting_a_run_leaves_nothing_running(workspace: Workspace) -> None:
    process = workspace.start("ship")
    while workspace.step_process("download") is None and workspace.step_process("quantize") is None:
        assert process.poll() is None, process.stderr and process.stderr.read()
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert workspace.none_left() == {}
    assert start_time(process.pid) is None


@pytest.mark.campaign
def test_killed_in_every_step_and_run_again(
    workspace: Workspace, shipped: dict[str, Any], record_property: pytest.RecordProperty
) -> None:
    for step, wanted in STEPS:
        event = kill_in(workspace, step, wanted)
        record_property(f"killed in {step}", event.text())
        print(f"killed in {step}: {event.text()}")

    # the command itself, while a step works: its children must not outlive it
    process = workspace.start("ship")
    while workspace.step_process("serve") is None:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert workspace.none_left() == {}

    finished = workspace.run("ship", "--json").json()
    assert finished["digest"] == shipped["digest"]
    assert finished["tags"] == shipped["tags"]
    states = {entry["name"]: entry["state"] for entry in finished["steps"]}
    assert states["download"] == "cached"
    assert states["quantize"] == "cached"
    assert workspace.none_left() == {}
    records = json.loads(workspace.run("runs", "--json").stdout)
    assert [record["state"] for record in records[:2]] == ["shipped", "killed"]
