"""What an older version stored is read, and judged, as it was then: one golden suite of each kind.

`tests/golden/evaluate/KIND` holds a suite, two measurements by it and their verdict, as version 1 of each schema wrote them.
They are never made anew: a change that breaks them breaks the stores of those who use Carwright.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from containers import suites
from containers.contract import Step, StepRequest
from containers.digest import canonical_json
from containers.evaluate import kinds
from containers.evaluate.load.measurement import SpeedMeasurement
from containers.evaluate.measurement import Measured
from containers.evaluate.samples import Samples
from containers.evaluate.suite import Sizes
from containers.verdict import REPORT_FILE, VERDICT_FILE, Verdict

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluate"
READERS = {"fidelity": Measured.read, "load": SpeedMeasurement.read}  # the others store the samples of their questions


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def compared(value: Any) -> Any:
    """Numbers to nine digits, as arithmetic differs beyond from machine to machine; of sentences for people how many."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: len(one) if key == "reasons" else compared(one) for key, one in value.items()}
    return [compared(one) for one in value] if isinstance(value, list) else value


def test_there_is_a_golden_suite_of_each_kind() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == kinds.KINDS.keys()


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("name", ["baseline", "candidate"])
def test_a_stored_measurement_is_the_same_bytes_again(kind: str, name: str) -> None:
    folder = GOLDEN / kind / name
    assert READERS.get(kind, Samples.read)(folder).files() == contents(folder)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_stored_measurements_are_judged_as_they_were(kind: str) -> None:
    folder = GOLDEN / kind
    suite = kinds.load(suites.read(str(folder / "suite")))
    judged = suite.judge(folder / "candidate", folder / "baseline", Sizes(baseline=2000, candidate=1000))
    for value, name in ((judged.verdict, VERDICT_FILE), (judged.report, REPORT_FILE)):
        assert compared(value.model_dump(mode="json")) == compared(json.loads((folder / "verdict" / name).read_bytes()))


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_stored_verdict_is_the_same_bytes_again(kind: str) -> None:
    content = (GOLDEN / kind / "verdict" / VERDICT_FILE).read_bytes()
    assert canonical_json(Verdict.model_validate_json(content).model_dump(mode="json")) == content


@pytest.mark.parametrize(
    ("kind", "fingerprint"),
    [
        ("fidelity", "bbad18de1ca7de4e1115f546263840e066a52004b782889682dfedfeac1ef0d0"),
        ("benchmarks", "5e1fb8107d936d34e6c14ad8c4240f8beb05d3d495766b1a87ff9c7ea3f5f5a4"),
        ("humaneval", "93a4358c2a648607f9b3e04c2ce207cd4179dda454ceac4a7f1e568bbfb241ed"),
    ],
)
def test_a_request_finds_what_was_measured_before(kind: str, fingerprint: str) -> None:
    files = suites.read(str(GOLDEN / kind / "suite"))
    asked = files.parameters(action="measure", subject="sha256:" + "a" * 64, server="toy", tensor_parallel_size=2)
    request = StepRequest(step=Step.EVALUATE, run="test", parameters=asked.dump(), options=files.options().dump())
    assert request.fingerprint({"bytes_version": "3"}) == fingerprint
