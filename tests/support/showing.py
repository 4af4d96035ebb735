"""A program that shows what a run shows, with words too long for any terminal: `python -m tests.support.showing [quiet]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from containers.contract import Kind
from containers.digest import Digest
from containers.errors import Temporary
from containers.events import Event
from containers.store import FileEntry, Manifest
from containers.verdict import Verdict
from flows.cli import terminal
from flows.cli.session import show_artifact
from flows.release.summary import Shipped, StepSummary

DIGEST: Final = Digest.of(b"an image")
FOLDER: Final = "/home/somebody/a folder [of:smile:models]/" + "with-a-long-name/" * 5 + ".carwright"
REFERENCE: Final = f"oci:{FOLDER}/images/smollm2-135m-instruct-fp8-dynamic@{DIGEST}"
COMMAND: Final = f"carwright serve '{REFERENCE}'"
URL: Final = "http://127.0.0.1:4200/runs/flow-run/" + "0123456789" * 8
LOG: Final = f"{FOLDER}/runs/20260102T030405"
FILE: Final = "a/very/long/folder/of/a/checkpoint/model-00001-of-00002.safetensors"
REPORT: Final = f"carwright report {REFERENCE} --output {FOLDER}/report.html"
RESULTS: Final = (str(DIGEST), REFERENCE, COMMAND, REPORT, FILE, FOLDER)
MESSAGES: Final = (URL, f"{FOLDER}/prefect/login")
STEPS: Final = ("download", "quantize", "evaluate")

SHIPPED: Final = Shipped(
    model="hf://HuggingFaceTB/SmolLM2-135M-Instruct",
    commit="0" * 40,
    scheme="FP8_DYNAMIC",
    size_before=269_000_000,
    size_after=163_000_000,
    reference=REFERENCE,
    digest=DIGEST,
    tags=("latest",),
    verdict=Verdict(decision="pass", subject=str(DIGEST), suite="smoke", reasons=("because",), measures={"kl": 0.01}),
    report=REPORT,
    steps=(StepSummary(name="push", state="done", seconds=1.5, what=REFERENCE),),
    seconds=10,
    work_seconds=9,
)


class _Store:
    def load(self, _: object) -> Manifest:
        return Manifest(
            kind=Kind.CHECKPOINT, fingerprint="f" * 64, files=(FileEntry(path=FILE, size=5, sha256=DIGEST),)
        )

    def materialize(self, *_: object) -> None: ...


def main() -> None:
    if "quiet" in sys.argv:
        terminal.be_quiet()
    with terminal.display() as show:
        show("carwright", Event(event="log", message=f"Prefect UI: {URL}; its login is in {FOLDER}/prefect/login"))
        for done in range(1, 101):
            for step in STEPS:
                show(step, Event(event="progress", task=f"{step} {FILE}", done=done * 1e7, total=1e9, unit="B"))
        show("carwright", Event(event="log", level="warning", message=URL))
    terminal.show_shipped(SHIPPED)
    manifest = _Store().load(None)
    show_artifact(_Store(), manifest.ref, Path(FOLDER), as_json=False)  # type: ignore[arg-type]
    error = Temporary(f"nobody answers at {URL}", remedy="try again", doctor="hub")
    error.log = LOG
    terminal.show_error(error)


if __name__ == "__main__":
    main()
