"""What is done to a ship while it runs: called again and again until it has been done."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.campaign.cases import ENGINES, SERVICES, STEPS, Case
from tests.support.fault_proxy import Fault
from tests.support.processes import descendants
from tests.support.real_services import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.campaign.world import Usual, World

_MB: Final = 1 << 20
_START: Final = 0.15


def steps_at_work(root: int) -> dict[int, str]:
    """The steps below a process: resolve, download, ..., fetch and serve; and `engine` for what vLLM starts."""
    found = {}
    for pid in descendants(root):
        line = words(pid).split()
        if "--request" not in line or any("supervisor.py" in word for word in line):
            continue
        try:
            request = json.loads(Path(line[line.index("--request") + 1]).read_text())
        except (OSError, ValueError):
            continue
        action = request["parameters"].get("action") or request["step"]
        found[pid] = request.get("options", {}).get("stage") or action
        if found[pid] == "serve":
            found |= dict.fromkeys((below for below in descendants(pid) if words(below)), "engine")
    return found


@dataclass
class Watch:
    """Looks at a ship that nobody disturbs: from when to when each process lived, under its step's name and its number."""

    seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, root: int, elapsed: float) -> bool:
        for pid, label in steps_at_work(root).items():
            began, _ = self.seen.get(f"{label} {pid}", (elapsed, elapsed))
            self.seen[f"{label} {pid}"] = (began, elapsed)
        return False

    def first(self) -> float:
        """When the first step was seen, seconds after the start of the command."""
        return round(min((began for began, _ in self.seen.values()), default=0.0), 2)

    def span(self) -> float:
        """Seconds from the first step to the end of the last."""
        return round(max((ended for _, ended in self.seen.values()), default=0.0) - self.first(), 2)

    def seconds(self) -> dict[str, float]:
        """How long a process of each step lives: of two, as both models have one, the longer."""
        found: dict[str, float] = {}
        for name, (began, ended) in self.seen.items():
            label = name.partition(" ")[0]
            found[label] = max(found.get(label, 0.0), round(ended - began, 2))
        return found


@dataclass
class Disturbance:
    """One case, done once; `done` says where and when, and is empty as long as nothing happened."""

    case: Case
    world: World
    usual: Usual
    restart_worker: Callable[[], object] = lambda: None
    worker: Callable[[], int] = lambda: 0
    done: str = ""
    _due: float = 0.0
    _target: int = 0
    _began: float = 0.0
    _back_at: float = 0.0
    _bring_back: Callable[[], object] | None = None

    def arm(self) -> None:
        """Before the ship: a fault waits in the proxy for its call."""
        case = self.case
        if case.victim in self.world.proxies and case.group in {"fault", "engine"}:
            calls = self.usual.calls.get(case.victim, 1)
            self.world.proxies[case.victim].arm(Fault(case.what, int(case.when * calls), case.times, case.pause))

    def disarm(self) -> None:
        for proxy in self.world.proxies.values():
            if proxy.hit:
                self.done = f"call {proxy.first}: {proxy.hit[0]}"
            proxy.arm(None)
        if self._bring_back is not None:
            self._bring_back()
            self._bring_back = None

    def __call__(self, root: int, elapsed: float) -> bool:
        """Look and act; true when there is nothing left to do."""
        if self._bring_back is not None:
            if elapsed < self._back_at:
                return False
            self._bring_back()
            self._bring_back = None
            return True
        if self.case.group in {"kill", "container"}:
            return self._kill(root, elapsed)
        if self.case.victim == "machine" and self.case.what in {"memory full", "no more files"}:
            return self._limit(root, elapsed)
        return True

    def _kill(self, root: int, elapsed: float) -> bool:
        victim = self.case.victim
        if victim in {*SERVICES, "Prefect server"}:
            if not self._is_time(root, elapsed):
                return False
            service = self.world.services[victim]
            service.kill()
            self._back_at, self._bring_back = elapsed + self.case.pause, service.start
            self.done = f"{elapsed:.1f} s after the start, back {self.case.pause} s later"
            return False
        if victim in {"flow", "command", "worker", "flow run", "embedded Prefect"}:
            if not self._is_time(root, elapsed):
                return False
            pid = self._by_name(victim, root)
            if pid:
                self._end(
                    pid,
                    f"{elapsed:.1f} s after the start; steps at work: {sorted(set(steps_at_work(self.worker() or root).values()))}",
                )
            if pid and victim == "worker":
                self._back_at, self._bring_back = elapsed + self.case.pause, self.restart_worker
                return False
            return bool(pid)
        return self._kill_step(root, elapsed)

    def _is_time(self, root: int, elapsed: float) -> bool:
        """One time in seven while everything starts, else from the first step on: how long the start takes changes most."""
        when, usual = self.case.when, self.usual
        if when < _START:
            return elapsed >= when / _START * usual.first / 2
        if not self._began and steps_at_work(self.worker() or root):
            self._began = elapsed
        return bool(self._began) and elapsed >= self._began + (when - _START) / (1 - _START) * usual.span

    def _by_name(self, victim: str, root: int) -> int:
        if victim in {"flow", "command"}:
            return root
        if victim == "worker":
            return self.worker()
        mark = "flows.orchestrator.prefect_server" if victim == "embedded Prefect" else "prefect"
        for pid in descendants(root if victim == "embedded Prefect" else self.worker()):
            line = words(pid)
            if mark in line and "supervisor.py" not in line and "--request" not in line:
                return pid
        return 0

    def _kill_step(self, root: int, elapsed: float) -> bool:
        victim = self.case.victim
        chosen = random.Random(self.case.name)
        label = chosen.choice(STEPS) if victim == "supervisor" else victim
        if not self._target:
            found = [pid for pid, one in steps_at_work(root).items() if one == label]
            if not found:
                return False
            self._target = chosen.choice(found)
            self._due = elapsed + self.case.when * 0.9 * self.usual.steps.get(label, 1.0)
        if elapsed < self._due:
            return False
        target = self._target
        if victim == "supervisor":
            target = int(Path(f"/proc/{target}/stat").read_text().rpartition(")")[2].split()[1]) if words(target) else 0
        if not target or not words(target):
            if label in {*ENGINES, "measure"}:  # there are two of each
                self._target = 0
                return False
            return True
        self._end(
            target,
            f"{victim} ({label}), {elapsed - self._due + self.case.when * 0.9 * self.usual.steps.get(label, 1.0):.2f} s after it was seen",
        )
        return True

    def _end(self, pid: int, said: str) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.done = said

    def _limit(self, root: int, elapsed: float) -> bool:
        """From some instant of a step's life on it gets no more than a little above what it has."""
        chosen = random.Random(self.case.name)
        label = chosen.choice(STEPS)
        if not self._target:
            found = [pid for pid, one in steps_at_work(root).items() if one == label]
            if not found:
                return False
            self._target = found[0]
            self._due = elapsed + (0.3 + 0.6 * self.case.when) * self.usual.steps.get(label, 1.0)
        if elapsed < self._due:
            return False
        room = chosen.random()
        try:
            if self.case.what == "memory full":
                now = int(Path(f"/proc/{self._target}/statm").read_text().split()[0]) * resource.getpagesize()
                most = now + int(room * 32 * _MB)
                resource.prlimit(self._target, resource.RLIMIT_AS, (most, most))
            else:
                most = max(int(entry.name) for entry in Path(f"/proc/{self._target}/fd").iterdir()) + 1 + int(room * 6)
                resource.prlimit(self._target, resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError):  # it has ended
            return True
        self.done = f"{label}: {self.case.what} at {most}"
        return True


def watched(root: int, act: Callable[[int, float], bool], alive: Callable[[], bool], longest: float) -> float:
    """Let it act until the ship has ended; the seconds that took, or more than `longest`."""
    began, finished = time.monotonic(), False
    while alive() and (elapsed := time.monotonic() - began) < longest:
        if not finished:
            finished = act(root, elapsed)
        time.sleep(0.02)
    return time.monotonic() - began
