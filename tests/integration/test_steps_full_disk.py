"""Steps whose scratch, or whose home, is on a full disk: one message, exit code 75, nothing half, and on from there later."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from containers.process import inherited, run
from tests.support.checkpoints import ends, layer, write
from tests.support.modelcars import write_checkpoint
from tests.support.quantize_client import environment

pytestmark = pytest.mark.integration

# Each program starts a step with a small file system of its own, then makes that larger and starts it again.
COMMON = """
import json, os, subprocess, sys
from pathlib import Path
from containers.contract import Kind, Step, StepRequest, StoreLocation
from containers.parameters import ServeOptions, ServeParameters
from containers.settings import StoreSettings
from containers.store import Store
from flows.runners.process.launcher import step_environment
from infra.settings import Settings

small, elsewhere, python = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
location = StoreLocation(endpoint="http://127.0.0.1:9")

def larger():
    subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)

def step(name, request, env):
    (elsewhere / "request.json").write_text(request.model_dump_json())
    words = [python, "-m", f"containers.{name}", "--request", str(elsewhere / "request.json")]
    done = subprocess.run([*words, "--result", str(elsewhere / "result.json")], env=env, capture_output=True, text=True)
    errors = [one for one in map(json.loads, done.stderr.splitlines()) if one.get("event") == "error"]
    result = json.loads((elsewhere / "result.json").read_text()) if done.returncode == 0 else {}
    return {"code": done.returncode, "errors": errors, "result": result, "said": done.stderr[-3000:]}

def files(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
"""

QUANTIZE = (
    COMMON
    + """
from tests.support.quantize_world import put

settings = Settings(store=StoreSettings(folder=elsewhere / "store", direct=True), home=elsewhere / "home")
(elsewhere / "store").mkdir()
store = Store.open(location, settings.store)
request = StepRequest(
    step=Step.QUANTIZE, run="test", inputs={"checkpoint": put(store, elsewhere / "model")}, store=location,
    options={"lanes": 1},
)
from infra.environments.environment import prepare
environment = prepare(Step.QUANTIZE, Settings(), lambda event: None)
env = {**step_environment(settings, request, environment, elsewhere), "TMPDIR": str(small)}
found = {"first": step("quantize", request, env), "left": sorted(files(small))}
found["kept"] = sum(1 for _ in store.manifests(Kind.GROUP))
larger()
found["second"] = step("quantize", request, env)
found["finished"] = sum(1 for _ in store.manifests(Kind.GROUP))
print(json.dumps(found))
"""
)

SERVE = (
    COMMON
    + """
from containers.settings import StepSettings
from tests.support.modelcars import push_folder

layout = f"oci:{elsewhere / 'layout'}"
pushed = push_folder(elsewhere / "model", layout, StepSettings(home=elsewhere / "home", cache=elsewhere / "cache"))
request = StepRequest(
    step=Step.SERVE, run="test", store=location, options=ServeOptions(stage="fetch").dump(),
    parameters=ServeParameters(reference=f"{layout}@{pushed.digest}", served_model_name="m").dump(),
)
env = {**os.environ, "CARWRIGHT_HOME": str(small / "home"), "CARWRIGHT_CACHE": str(elsewhere / "cache")}
found = {"first": step("serve", request, env)}
home = small / "home" / "serving"
before = files(home)
found["visible"] = [path.name for path in home.iterdir() if not path.name.startswith(".")]
found["parts"] = sorted(path for path in before if path.endswith(".safetensors"))
larger()
found["second"] = step("serve", request, env)
served = next(path for path in home.iterdir() if path.is_dir() and not path.name.startswith("."))
after = files(served)
found["again"] = [path for path in found["parts"] if after[Path(path).name] != before[path]]
found["same"] = all((served / one.name).read_bytes() == one.read_bytes() for one in (elsewhere / "model").glob("*.*"))
print(json.dumps(found))
"""
)


def within(tmp_path: Path, program: str, megabytes: int, python: str) -> dict[str, Any]:
    """What the program found; its small file system needs unprivileged mount namespaces, or root."""
    small, script = tmp_path / "small", tmp_path / "program.py"
    small.mkdir()
    script.write_text(program)
    mount = 'mount -t tmpfs -o size="$1"m,mode=0700 none "$2"; shift; exec "$2" "$3" "$1" "$4" "$5"'
    words = ["sh", "-ec", mount, "sh", str(megabytes), str(small), sys.executable, str(script), str(tmp_path), python]
    said = run(
        ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", *words],
        env={**inherited(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        timeout=200,
    )
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def full(outcome: dict[str, Any]) -> dict[str, Any]:
    """The one error of a step that ended for want of space."""
    assert outcome["code"] == 75, outcome["said"]
    (error,) = outcome["errors"]
    return dict(error)


def test_quantize_whose_scratch_is_full_keeps_what_is_done(tmp_path: Path) -> None:
    """Three shards fit the scratch folder, the fourth does not."""
    write(tmp_path / "model", [ends(64, 128), layer(0, 64, 128), layer(1, 64, 128), layer(2, 64, 1 << 16)])
    found = within(tmp_path, QUANTIZE, 8, str(environment().python))
    error = full(found["first"])
    assert "no space for the quantized model-00004-of-00004.safetensors" in error["message"]
    assert "TMPDIR" in json.dumps(error)
    assert found["left"] == []
    assert found["second"]["code"] == 0, found["second"]["said"]
    assert found["second"]["result"]["values"]["reused"] == found["kept"] == 3
    assert found["finished"] == 4


def test_a_modelcar_that_does_not_fit_is_unpacked_when_there_is_room(tmp_path: Path) -> None:
    """Nothing is served of half a model; the layers that were whole are not written a second time."""
    write_checkpoint(tmp_path / "model", shards=6, size=4 << 20)
    found = within(tmp_path, SERVE, 18, sys.executable)
    error = full(found["first"])
    assert "no space is left to unpack" in error["message"]
    assert found["visible"] == []
    assert found["parts"]
    assert found["second"]["code"] == 0, found["second"]["said"]
    assert found["again"] == []
    assert found["same"]
