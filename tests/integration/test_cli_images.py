"""`carwright push`, `lint`, `verify` and `clean --registry` as a person runs them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import CommandLine
from tests.support.local_registry import LocalRegistry
from tests.support.modelcars import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.integration


@pytest.fixture
def carwright(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def test_push_lint_verify(carwright: CommandLine, tmp_path: Path) -> None:
    """A folder is pushed, found unchanged, linted and verified; the plan comes before the push."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    with LocalRegistry(tmp_path / "registry") as registry:
        reference = f"{registry}/org/car:v1"
        planned = carwright("push", checkpoint, reference, "--plan")
        assert planned.returncode == 0, planned.stderr
        assert "7 files in 9 layers" in planned.stdout, "with --plan it is the result"
        assert carwright("lint", reference).returncode == 2, "--plan sends nothing"
        pushed = carwright("push", checkpoint, reference, "--also", "raw", "--annotation", "org.example=1", "--json")
        assert pushed.returncode == 0, pushed.stderr
        said = json.loads(pushed.stdout)
        assert said["tags"] == ["candidate-" + said["reference"].partition("sha256:")[2][:12], "v1"]
        assert "doubles what is stored" in pushed.stderr
        again = carwright("push", checkpoint, reference, "--also", "raw", "--annotation", "org.example=1")
        assert "nothing was sent" in again.stdout
        lint = carwright("lint", reference, "--json")
        assert lint.returncode == 0, lint.stderr
        assert {one["level"] for one in json.loads(lint.stdout)["findings"]} == {"ok"}
        verified = carwright("verify", reference, "--against", checkpoint)
        assert (verified.returncode, "every digest is right" in verified.stdout) == (0, True)
        (checkpoint / "LICENSE").write_text("another\n")
        differs = carwright("verify", reference, "--against", checkpoint)
        assert differs.returncode == 2
        assert "changed: LICENSE is" in differs.stdout
        cleaned = carwright("clean", "--registry", f"{registry}/org/car", "--older", "1h")
        assert cleaned.stdout.startswith("0 candidate(s)"), cleaned.stderr


def test_bad_input(carwright: CommandLine, tmp_path: Path) -> None:
    """Each is one clear message on standard error, no traceback, and its exit code."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    cases = [
        (("push", tmp_path / "nowhere", "oci:car"), 2, "is not a folder"),
        (("push", tmp_path, "oci:car"), 2, "no config.json"),
        (("push", checkpoint, "car"), 2, "names no registry"),
        (("push", checkpoint, "quay.io/org/car:-"), 2, "not a tag"),
        (("push", checkpoint, f"quay.io/org/car@sha256:{'0' * 64}"), 2, "a push computes the digest"),
        (("push", checkpoint, "oci:car", "--also", "zip"), 2, "only raw is known"),
        (("push", checkpoint, "oci:car", "--annotation", "x"), 2, "not KEY=VALUE"),
        (("push", checkpoint, "127.0.0.1:1/org/car", "--base", "none"), 75, "cannot connect"),
        (("lint", "oci:nowhere"), 2, "holds nothing"),
        (("verify", "oci:nowhere:v1"), 2, "has no tag or digest v1"),
        (("clean", "--registry", "127.0.0.1:1/org/car", "--older", "soon"), 2, "is not an age"),
    ]
    for arguments, code, says in cases:
        done = carwright(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), (arguments, done.stderr)
        assert says in " ".join(done.stderr.split()), (arguments, done.stderr)
    assert not (tmp_path / "car").exists()
