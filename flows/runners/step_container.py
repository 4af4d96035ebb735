"""What holds for a step's container wherever it runs, on a container engine or in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from containers.contract import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.contract import StepRequest

    T = TypeVar("T")


def by_step(table: Mapping[str, T], step: Step) -> T | None:
    """A value of one of the tables in the settings; the one of `*` where the step has none."""
    return table.get(step.value, table.get("*"))


def image_name(template: str, step: Step, gpus: Mapping[str, int]) -> str:
    """The image of a step, another one where `gpus` gives it some; `template` has `{target}` in the target's place."""
    on_gpu = bool(by_step(gpus, step))
    targets = {Step.QUANTIZE: "quantize-cuda" if on_gpu else "quantize", Step.SERVE: "serve" if on_gpu else "serve-cpu"}
    return template.format(target=targets.get(step, step.value))


def makes_user_namespaces(request: StepRequest) -> bool:
    """Whether it runs bubblewrap, around a model's programs: the default seccomp profile of engines forbids what that does."""
    return request.step is Step.EVALUATE and request.parameters.get("action", "measure") == "measure"
