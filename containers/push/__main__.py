"""The push step: a checkpoint becomes a modelcar in a layout or a registry; a measured modelcar gets its tags."""

from __future__ import annotations

from containers.contract import Step
from containers.step import loading, run

if __name__ == "__main__":
    with loading(Step.PUSH):
        from containers.push.work import work

    run(Step.PUSH, work)
