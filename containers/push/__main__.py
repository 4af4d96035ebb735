"""The push step: a checkpoint becomes a modelcar in a layout or a registry; a measured modelcar gets its tags."""

from __future__ import annotations

from containers.contract import Step
from containers.push.work import work
from containers.step import run

if __name__ == "__main__":
    run(Step.PUSH, work)
