"""A dry run of a test's own on the Docker engine, seen from outside as its user would see it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from flows.local.dry_run.site import Site
from tests.e2e.workspace import DEADLINE, Ended, Workspace
from tests.support.api_client import logged_in

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

SITE = Site.read()  # now: the variables of this machine do not reach a test
OURS = ("dev.carwright.flow-runs", "dev.carwright.project")  # labels: flow runs, and steps with their services


@dataclass(frozen=True)
class DryRun(Workspace):
    """A project of its own on the engine, with ports of its own; commands get its variables."""

    project: str = ""
    port: int = 0
    registry: int = 0
    store: int = 0
    login: str = ""

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "CARWRIGHT_PROJECT": self.project,
            "CARWRIGHT_IMAGES": SITE.images_,
            "CARWRIGHT_TAG": SITE.tag,
            "CARWRIGHT_PORT": str(self.port),
            "CARWRIGHT_REGISTRY_PORT": str(self.registry),
            "CARWRIGHT_STORE_PORT": str(self.store),
            "PREFECT_API_URL": self.api,
            **({"PREFECT_API_AUTH_STRING": self.login} if self.login else {}),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def make(self, *arguments: str) -> Ended:
        return self.run("dry-run", *arguments)

    def prefect(self, *arguments: str) -> Ended:
        return replace(self, command=(sys.executable, "-m", "prefect")).run(*arguments)

    def logged_in(self) -> DryRun:
        """The same with the login that the dry run prints for a shell."""
        (line,) = re.findall(r"export PREFECT_API_AUTH_STRING=(\S+)\n", self.make("login").stdout)
        return replace(self, login=line)

    def client(self) -> httpx.Client:
        return logged_in(self.api, self.login)

    def containers(self, **labels: str) -> list[str]:
        """Names of this project's flow runs, steps and services, whatever their state."""
        wanted = [part for key, value in labels.items() for part in ("--filter", f"label=dev.carwright.{key}={value}")]
        found: set[str] = set()
        for label in OURS:
            listed = docker("ps", "-a", "--filter", f"label={label}={self.project}", *wanted, "--format", "{{.Names}}")
            found |= set(listed.split())
        return sorted(found)

    def none_left(self, seconds: float = 30.0) -> dict[int, str]:
        """The engine takes a moment to remove what has ended."""
        until(lambda: not self.containers(), seconds)
        return dict(enumerate(self.containers()))

    def start_run(self, **parameters: Any) -> str:
        """The id of a run of quantize-and-ship/local, started as the UI does it."""
        with self.client() as api:
            deployment = api.get("/deployments/name/quantize-and-ship/local").raise_for_status().json()["id"]
            asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
            made = api.post(f"/deployments/{deployment}/create_flow_run", json=asked).raise_for_status().json()
        return str(made["id"])

    def last_run(self) -> str:
        """The id of the newest run of the chain."""
        asked = {
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": 1,
            "flows": {"name": {"any_": ["quantize-and-ship"]}},
            "flow_runs": {"start_time": {"is_null_": False}},
        }
        (run,) = self.client().post("/flow_runs/filter", json=asked).raise_for_status().json()
        return str(run["id"])

    def state(self, run: str) -> str:
        return str(self.client().get(f"/flow_runs/{run}").raise_for_status().json()["state"]["type"])

    def ended(self, run: str, seconds: float = DEADLINE) -> str:
        final = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
        assert until(lambda: self.state(run) in final, seconds), self.state(run)
        return self.state(run)

    def cancel(self, run: str) -> None:
        """What the button in the UI does."""
        asked = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self.client().post(f"/flow_runs/{run}/set_state", json=asked).raise_for_status()

    def tasks(self, run: str) -> dict[str, str]:
        asked = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found = self.client().post("/task_runs/filter", json=asked).raise_for_status().json()
        return {task["name"]: task["state"]["name"] for task in found}


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


def need_images(*targets: str) -> None:
    """Without an engine or without the images, tests that need them are skipped at a desk and fail in CI."""
    if missing := _missing([SITE.image(target) for target in targets]):
        if not os.environ.get("CI"):
            pytest.skip(missing)
        pytest.fail(missing)


def _missing(images: list[str]) -> str:
    try:
        there = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    except (OSError, subprocess.CalledProcessError):
        return "no Docker engine answers"
    absent = [image for image in images if image not in there]
    return f"make images first: the engine has no {', '.join(absent)}" if absent else ""
