"""What a run shipped, as its statements tell it: the request, the inputs, the outputs and where the steps ran.

Everything but `RunFacts` follows from the request and from what the store holds, so the same product shipped again is the
same shipment. What is true of one run alone is in `RunFacts`, and `anonymous` leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from containers import suites
from containers.contract import Step
from containers.digest import Digest
from containers.fingerprints import lock_of
from flows.runners.backends import BACKENDS
from flows.runners.step_container import image_name
from infra.environments.device import device

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from containers.parameters import PushedImage, QuantizeParameters, ResolvedSource
    from containers.store import Manifest
    from containers.suites import SuiteFiles
    from containers.verdict import Decision, Verdict
    from flows.release.summary import StepSummary
    from flows.ship_request import ShipRequest
    from infra.settings import Settings

# Parameters that say how to run and why, and nothing about the product.
_OF_THE_RUN: Final = ("concurrency", "approval", "keep", "force", "reason", "change")
# The steps behind each line of a run's timeline; a service belongs to the measurement that it was started for.
_STEPS: Final[Mapping[str, tuple[Step, ...]]] = {
    "resolve": (Step.DOWNLOAD,),
    "download": (Step.DOWNLOAD,),
    "quantize": (Step.QUANTIZE,),
    "push": (Step.PUSH,),
    "baseline": (Step.SERVE, Step.EVALUATE),
    "evaluate": (Step.SERVE, Step.EVALUATE),
    "judge": (Step.EVALUATE,),
}


@dataclass(frozen=True)
class StepEnvironment:
    """What a step ran in: `launcher` started it, or `placement` names the deployment that did. `lock` is the digest of the
    hash lock that its environment was made from, `image` the image's name; either is empty where it is not known here.
    """

    step: Step
    launcher: str = ""
    placement: str = ""
    image: str = ""
    lock: Digest | None = None

    @classmethod
    def of(cls, step: Step, settings: Settings, *, image_of: Step | None = None) -> StepEnvironment:
        """`image_of` is the step whose image it ran in, where that is not its own."""
        if placed := getattr(settings.placement, step.value):
            return cls(step, placement=placed)  # the worker's settings decide the rest
        template = BACKENDS[settings.launcher].images(settings)
        if template is not None:
            return cls(step, settings.launcher, image=image_name(template, image_of or step, settings))
        own = {Step.SERVE: settings.serve.python, Step.QUANTIZE: settings.quantize.python}
        if own.get(step) is not None:  # an environment of the user's own
            return cls(step, settings.launcher)
        cuda = step in {Step.QUANTIZE, Step.SERVE} and device(settings) == "cuda"
        return cls(step, settings.launcher, lock=Digest.of(lock_of(step, cuda=cuda).read_bytes()))


@dataclass(frozen=True)
class RunFacts:
    """What is true of one run: its id, the version of Carwright, the state of each step, and what those ran in that did not
    come from the store.
    """

    id: str = ""
    version: str = ""
    states: tuple[tuple[str, str], ...] = ()
    environments: tuple[StepEnvironment, ...] = ()

    @classmethod
    def of(cls, run: str, steps: Iterable[StepSummary], request: ShipRequest, settings: Settings) -> RunFacts:
        listed = tuple(steps)
        whole = [(step.name.partition(" ")[0], step.state) for step in listed]  # "evaluate 2" is its second look
        elsewhere = {"baseline": request.baseline_endpoint, "evaluate": request.candidate_endpoint}
        # Speed is measured in the image that has the load generator, and judged in its own (`step_container.image_step`).
        loads = suites.read(request.suite).measures_speed
        ran = (
            (one, Step.SERVE if loads and one is Step.EVALUATE and name != "judge" else one)
            for name, state in whole
            if state != "cached"
            for one in _STEPS.get(name, ())
            if one is not Step.SERVE or not elsewhere.get(name)  # somebody else served it
        )
        return cls(
            id=run,
            version=_version(),
            states=tuple((step.name, step.state) for step in listed),
            environments=tuple(
                dict.fromkeys(StepEnvironment.of(step, settings, image_of=image) for step, image in ran)
            ),
        )


def _version() -> str:
    try:
        return version("carwright")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "source"


@dataclass(frozen=True)
class Shipment:
    """`before` and `after` are the checkpoints before and after quantization, `decisions` those about single measures of the
    suite, `verdict_file` is the digest of the verdict's file, `approval` the reason of the person who approved. `architecture` is the model's class, `base_model` and `base_revision` its name on the hub.
    """

    request: ShipRequest
    source: ResolvedSource
    recipe: QuantizeParameters
    image: PushedImage
    before: Manifest
    after: Manifest
    verdict: Verdict
    suite: SuiteFiles
    name: str
    base_model: str
    base_revision: str
    architecture: str
    tag: str
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    verdict_file: Digest | None = None
    approval: str = ""
    run: RunFacts = RunFacts()

    @property
    def place(self) -> str:
        """The repository or layout that the image is in."""
        return self.image.reference.partition("@")[0]

    @property
    def from_hub(self) -> bool:
        """Whether the public hub has it, where a commit names the bytes; what a mirror gave is pinned by its listing."""
        return self.source.pinned.startswith("hf://") and "#" not in self.source.pinned

    @property
    def quantization(self) -> Mapping[str, Any]:
        """What the quantize step recorded in its checkpoint."""
        recorded = self.after.metadata.get("quantization")
        return recorded if isinstance(recorded, dict) else {}

    def anonymous(self) -> Shipment:
        """The same without what is true of this run alone: equal for two runs that ship the same product."""
        defaults = type(self.request).model_fields
        request = self.request.model_copy(update={name: defaults[name].default for name in _OF_THE_RUN})
        return replace(self, request=request, run=RunFacts())
