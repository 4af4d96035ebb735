"""Runs steps on other machines: as child runs in the work pools that `settings.placement` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from containers.contract import Step
from containers.errors import BadInput
from containers.parameters import QuantizeOptions, QuantizeParameters
from containers.store import Store
from flows.orchestrator.child_runs import Children
from flows.runners.remote.fan_out import FanOut

if TYPE_CHECKING:
    from containers.contract import StepRequest, StepResult
    from containers.events import OnEvent
    from flows.runners.launcher import Launcher
    from infra.settings import Settings


@dataclass(frozen=True)
class PlacedLauncher:
    """Steps that have a deployment go there, the others to the launcher of this machine.

    A quantization that several child runs share is planned and assembled here: both read headers alone, and no GPU
    waits for them.
    """

    settings: Settings
    here: Launcher

    def prepare(self, request: StepRequest, on_event: OnEvent) -> None:
        if not self.settings.placement.deployment(request.step) or self._shared(request) or _is_plan(request):
            self.here.prepare(request, on_event)

    def run(self, request: StepRequest, on_event: OnEvent) -> StepResult:
        """Raises what `flows.orchestrator.child_runs` raises; whatever happens, the child runs end."""
        deployment = self.settings.placement.deployment(request.step)
        if not deployment or _is_plan(request):
            return self.here.run(request, on_event)
        if request.step is Step.SERVE:
            raise BadInput("a model is served by a service, not by a launcher")
        store = Store.open(request.store, self.settings.store)
        if self._shared(request):
            return FanOut(request, self.here, store, self.settings, on_event).run()
        with Children(store, self.settings).start(deployment, request, request.step.value, on_event) as child:
            return child.wait()

    def _shared(self, request: StepRequest) -> bool:
        if request.step is not Step.QUANTIZE or not self.settings.placement.quantize:
            return False
        options = QuantizeOptions.read(request.options)
        return self.settings.placement.runs > 1 and not options.groups and not options.arriving


def _is_plan(request: StepRequest) -> bool:
    return request.step is Step.QUANTIZE and QuantizeParameters.read(request.parameters).action == "plan"
