"""Asks `tests/support/quantize_lab.py`, which runs in the environment of the quantize step."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from containers.contract import Step
from containers.process import inherited
from infra.environments.environment import Environment, prepare
from infra.settings import Settings

LAB = Path(__file__).with_name("quantize_lab.py")


def environment() -> Environment:
    """The step's environment; built when it is not there yet, which takes some minutes once."""
    return prepare(Step.QUANTIZE, Settings(), lambda event: None)


class Lab:
    """One process of the lab; `ask` raises AssertionError with the end of its log when it dies."""

    def __init__(self, environment: Environment, log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [str(environment.python), str(LAB)],
                env={**inherited(), **environment.environment(), "HF_HUB_OFFLINE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print a line or two while they are imported
                return json.loads(line)
        raise AssertionError(self._log.read_text()[-4000:])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
