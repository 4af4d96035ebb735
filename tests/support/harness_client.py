"""Runs suites with lm-evaluation-harness, in the evaluate step's environment: the harness is imported once for many of them.

Standard input is a JSON list of scenarios; standard output gets the answers by name, as JSON.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from containers import suites
from containers.errors import Error
from containers.evaluate.declaration import parse
from containers.evaluate.harness.run import Harness
from containers.evaluate.kinds.benchmarks import BenchmarkDeclaration
from containers.evaluate.looks import LookProgress
from containers.events import Reporter
from containers.parameters import EvaluateOptions
from containers.settings import EvaluateSettings, StepSettings


def ran(scenario: dict[str, Any]) -> dict[str, Any]:
    files = suites.read(scenario["suite"])
    data = Path(scenario["data"]) if scenario.get("data") else None
    settings = StepSettings(evaluate=EvaluateSettings(data=data, **scenario.get("evaluate", {})))
    options = EvaluateOptions(**{"served_model_name": "toy", "attempts": 6, **scenario["options"]})
    tokenizer = Path(scenario["tokenizer"]) if scenario.get("tokenizer") else None
    with tempfile.TemporaryDirectory() as scratch:
        declared = parse(files, BenchmarkDeclaration)
        repeated = scenario.get("again", 0)
        harness = Harness(
            files,
            declared.benchmarks,
            Path(scratch),
            settings,
            tokenizer,
            declared.category,
            repeated=repeated,
            progress=LookProgress.at(declared.looks, scenario.get("look", 0)),
        )
        try:
            found = harness.run(options, Reporter(io.StringIO()))
        except Error as error:
            return {"error": type(error).__name__, "message": error.message, "remedy": error.remedy}
    return {
        "scored": {one.key: one.model_dump(mode="json") for one in found.scored},
        "requests": found.requests.model_dump(),
        "cut": found.cut,
        "noise": found.noise,
        "commands": list(found.commands),
    }


if __name__ == "__main__":
    answers = {scenario["name"]: ran(scenario) for scenario in json.load(sys.stdin)}
    sys.stdout.write(json.dumps(answers))
