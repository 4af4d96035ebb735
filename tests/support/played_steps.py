"""The steps of a chain, played: for tests of the flow that orders them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from containers.contract import Kind, StepRequest, StepResult
from containers.digest import Digest
from containers.fingerprints import fingerprint_inputs
from containers.parameters import Endpoint, PromotedImage, PushedImage, ResolvedSource
from containers.store import FileEntry, Manifest, Store
from containers.verdict import Score, Verdict

if TYPE_CHECKING:
    from containers.errors import StepFailed
    from containers.events import OnEvent


@dataclass
class PlayedLauncher:
    """Answers each request as the step would, commits what a pure step makes, and remembers what it was asked. `by_look` are the
    decisions after each look of a suite that has so many.
    """

    store: Store
    decision: str = "pass"
    by_look: tuple[str, ...] = ()
    failures: list[StepFailed] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    requests: list[StepRequest] = field(default_factory=list)

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        del request, on_event

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        del on_event
        name = str(request.parameters.get("action") or request.step)
        self.asked.append(name)
        self.requests.append(request)
        if self.failures and name == self.failures[0].step:
            raise self.failures.pop(0)
        digest = Digest.of(b"an image")
        values: Any
        match name:
            case "resolve":
                values = ResolvedSource(
                    source="hf://a/b", pinned="hf://a/b@" + "0" * 40, commit="0" * 40, files=1, size=1
                )
            case "push":
                values = PushedImage(
                    reference=f"oci:x@{digest}", digest=digest, candidate_tag="c", layers=1, size=1, pushed_bytes=0,
                    already_there=False,
                )  # fmt: skip
            case "promote":
                values = PromotedImage(reference=f"oci:x@{digest}", tags=("t",), already_there=False)
            case "judge":
                score = Score(title="MMLU", baseline=80, candidate=79.5, lower=-1, upper=0.5)
                look = len(request.inputs) // 2 if self.by_look else 0
                decision = self.by_look[look - 1] if look else self.decision
                values = Verdict(
                    decision=decision, subject=str(digest), suite="smoke", reasons=("because",), scores=(score,),
                    look=look, looks=len(self.by_look),
                )  # fmt: skip
                return self._made(request, Kind.VERDICT, "verdict", values.dump(), "report.html")
            case "measure":
                return self._made(request, Kind.MEASUREMENT, "measurement", {})
            case _:
                return self._made(request, Kind.CHECKPOINT, "checkpoint", {})
        return StepResult(step=request.step, values=values.dump())

    def _made(
        self, request: StepRequest, kind: Kind, output: str, values: dict[str, Any], path: str = "file"
    ) -> StepResult:
        fingerprint = request.fingerprint(fingerprint_inputs(request.step, request.parameters.get("action")))
        content = fingerprint.encode()
        entry = FileEntry(path=path, size=len(content), sha256=self.store.put_bytes(content))
        ref = self.store.commit(Manifest(kind=kind, fingerprint=fingerprint, files=(entry,)))
        return StepResult(step=request.step, outputs={output: ref}, values=values)


@dataclass
class PlayedServices:
    served: list[str] = field(default_factory=list)

    def start(self, request: StepRequest, on_event: OnEvent, *, keep: bool = False) -> PlayedServices:
        del on_event, keep
        self.served.append(str(request.parameters["reference"]))
        return self

    endpoint = Endpoint(url="http://127.0.0.1:1/v1", served_model_name="m", server="played")
    found = False
    serves = True

    def end(self) -> None: ...

    def keep(self) -> None: ...

    def stop_all(self, *, kept: bool = False) -> list[str]:
        del kept
        return []
