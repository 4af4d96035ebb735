"""The cases: what is done to a ship, when, and to whom. All of it follows from the seed and the case's number."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Final

# Who is killed. A step's process, whoever else works for the run, and the services that it needs.
STEPS: Final = ("resolve", "download", "quantize", "push", "measure", "judge", "promote")
ENGINES: Final = ("fetch", "serve", "engine")  # the ship starts its own vLLM for these
SIDES: Final = ("supervisor", "flow", "embedded Prefect")
SERVICES: Final = ("store", "registry")
OF_A_POOL: Final = ("worker", "flow run", "command", "Prefect server")  # the ship is a run of a deployment for these
VICTIMS: Final = (*STEPS, *SIDES, *SERVICES, *OF_A_POOL, *ENGINES)

# What is done to a call of each service.
_HTTP: Final = ("refused", "reset", "lost", "slow", "500", "503", "cut", "page")
FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "store": (*_HTTP, "flipped"),
    "registry": (*_HTTP, "429", "flipped"),
    "hub": (*_HTTP, "429"),
    "cdn": (*_HTTP, "429", "flipped"),
    "baseline": _HTTP,  # the endpoints of two vLLMs; a number of theirs that is changed nobody can tell
    "candidate": _HTTP,
    "Prefect API": _HTTP,
    "machine": ("disk full", "memory full", "no more files", "store's disk full"),
}
BESIDE: Final = (
    "two runs on one model",
    "two runs in one folder",
    "three runs on one store",
    "a clean beside a ship",
    "a sweep of the store beside a ship",
)
FOR_EVER: Final = 10**9
# Ships whose steps are containers: who is killed there, and what is done to a call of the engine's socket.
CONTAINERS: Final = ("download", "quantize", "push", "evaluate", "flow")  # of a step; and the command that waits
SERVING: Final = ("server", "modelcar", "fetch")  # vLLM's container and those beside it; the ship serves for these
ENGINE: Final = "container engine"
_SLOWEST: Final = 3  # slow calls in a row: a ship makes hundreds
GROUPS: Final = {"kill": 100, "fault": 100, "beside": 20, "container": 10, "engine": 16}  # and how many cases each has
_TIMES: Final = (1, 1, 1, 1, 3, 3, FOR_EVER)


@dataclass(frozen=True)
class Case:
    """`victim` is who is killed or whose call is hit, `what` the kind of the fault; `when` is where in its life or among its calls
    (0 to 1), `times` how many calls in a row. `pause` is how many seconds a killed service is away, a slow one late.
    """

    name: str
    group: str
    victim: str
    what: str
    when: float
    times: int = 1
    pause: float = 1.0

    @property
    def in_containers(self) -> bool:
        """Whether each step of the ship is a container."""
        return self.group in {"container", "engine"}

    @property
    def way(self) -> str:
        """How the model is shipped; each way costs a ship that nobody disturbs."""
        how = "own" if self.own_engines else "pool" if self.by_deployment else "plain"
        return f"{how}-docker" if self.in_containers else how

    @property
    def by_deployment(self) -> bool:
        """Whether the ship is a run of a deployment, in a work pool."""
        return self.victim in {*OF_A_POOL, "Prefect API"}

    @property
    def own_engines(self) -> bool:
        """Whether the ship serves the models itself; else two vLLMs are there."""
        return self.victim in {*ENGINES, *SERVING}

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def kills(seed: int, number: int) -> list[Case]:
    """Every victim in turn, each time at another instant."""
    found = []
    for index in range(number):
        chance = random.Random(f"{seed}:kill:{index}")
        victim = VICTIMS[index % len(VICTIMS)]
        found.append(
            Case(f"kill-{index:03}", "kill", victim, "SIGKILL", chance.random(), pause=round(chance.uniform(0.2, 4), 1))
        )
    return found


def faults(seed: int, number: int) -> list[Case]:
    """Every service in turn, each time with the next of its kinds and another call."""
    found = []
    services = list(FAULTS)
    for index in range(number):
        chance = random.Random(f"{seed}:fault:{index}")
        service = services[index % len(services)]
        kinds = FAULTS[service]
        kind = kinds[index // len(services) % len(kinds)]
        times = 1 if service == "machine" else chance.choice(_TIMES)
        pause = round(chance.uniform(0.5, 6), 1)
        found.append(Case(f"fault-{index:03}", "fault", service, kind, chance.random(), times, pause))
    return found


def beside(seed: int, number: int) -> list[Case]:
    """Runs at once, the later ones `when` of a ship's time after the first."""
    found = []
    for index in range(number):
        chance = random.Random(f"{seed}:beside:{index}")
        found.append(Case(f"beside-{index:03}", "beside", "", BESIDE[index % len(BESIDE)], chance.random()))
    return found


def containers(seed: int, number: int) -> list[Case]:
    """Containers that are killed: those of steps, and at last, since they cost most, those that serve."""
    found = []
    for index in range(number):
        chance = random.Random(f"{seed}:container:{index}")
        victims = (*CONTAINERS, *CONTAINERS[1:3], *SERVING)
        found.append(
            Case(f"container-{index:03}", "container", victims[index % len(victims)], "SIGKILL", chance.random())
        )
    return found


def engine(seed: int, number: int) -> list[Case]:
    """Calls of the engine's socket, each time with the next kind; first one call of each, then more in a row or all."""
    found = []
    for index in range(number):
        chance = random.Random(f"{seed}:engine:{index}")
        kind, times = _HTTP[index % len(_HTTP)], 1 if index < len(_HTTP) else chance.choice(_TIMES)
        if kind == "slow":
            times = min(times, _SLOWEST)
        pause = round(chance.uniform(0.5, 6), 1)
        found.append(Case(f"engine-{index:03}", "engine", ENGINE, kind, chance.random(), times, pause))
    return found


def every(seed: int, numbers: dict[str, int]) -> list[Case]:
    """All cases, mixed, so that a part of them already says something about each kind."""
    make = {"kill": kills, "fault": faults, "beside": beside, "container": containers, "engine": engine}
    cases = [case for group, number in numbers.items() for case in make[group](seed, number)]
    random.Random(seed).shuffle(cases)
    return cases
