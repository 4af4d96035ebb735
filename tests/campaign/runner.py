"""Runs one case: a ship that is disturbed, what it said and left, and a ship after it that must end well."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

from tests.campaign import leavings
from tests.campaign.cases import Case
from tests.campaign.disturbance import Watch, watched
from tests.campaign.engine import ContainerWatch, disturbance
from tests.campaign.pool import Pool, end_tree
from tests.campaign.world import LONGEST, POOL, ROOT, Bench, Ended, Usual, World
from tests.support import real_services

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_TRIES: Final = 3  # until the victim was alive at the instant, or the call was made
_MB: Final = 1 << 20
_TMPFS: Final = 'mount -t tmpfs -o "size=$1,mode=0700" none "$2"; if [ -e "$3" ]; then cp -a "$3" "$2/prefect"; fi; shift 3; exec "$@"'


def documented_codes() -> frozenset[int]:
    """The exit codes of docs/reference/exit-codes.md; 1 is a bug and no way to end."""
    page = (ROOT / "docs/reference/exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+)(?: to (\d+))? \|", page, re.MULTILINE)
    return frozenset(code for first, last in rows for code in range(int(first), int(last or first) + 1)) - {1}


def in_namespace(size: int, folder: Path, template: Path) -> tuple[str, ...]:
    """The words that run a command with a small file system at `folder`."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *user, "--mount", "sh", "-ec", _TMPFS, "sh", str(size), str(folder), str(template))


def can_mount(folder: Path) -> bool:
    folder.mkdir(exist_ok=True)
    try:
        return (
            subprocess.run(
                [*in_namespace(1 << 20, folder, folder / "none"), "true"], capture_output=True, check=False
            ).returncode
            == 0
        )
    except OSError:
        return False


class Runner:
    """Runs cases in a world, one after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.codes = documented_codes()
        self._broken: dict[str, str] = {}

    # A ship that nobody disturbs, for each way to ship, when it is first needed.

    def usual(self, case: Case) -> Usual:
        kind = case.way
        if kind in self._broken:
            raise RuntimeError(f"no undisturbed ship of this kind ended well: {self._broken[kind]}")
        if kind not in self.world.usual:
            try:
                self.world.usual[kind] = self._undisturbed(case)
            except AssertionError as error:
                self._broken[kind] = str(error)
                raise
        return self.world.usual[kind]

    def _undisturbed(self, case: Case) -> Usual:
        if case.by_deployment:
            self.world.open_pool()
        bench = Bench(self.world, f"usual-{case.way}", case)
        for proxy in self.world.proxies.values():
            proxy.arm(None)
        watch, pool = ContainerWatch(engine=self.world.engine) if case.in_containers else Watch(), Pool(bench)
        try:
            if case.by_deployment:
                pool.start()
            ended = self._ship(bench, case, pool, act=lambda root, elapsed: watch(pool.pid() or root, elapsed))
            calls = {name: len(proxy.calls) for name, proxy in self.world.proxies.items()}
        finally:
            pool.stop()
        assert ended.code == 0, f"an undisturbed ship ended with {ended.code}:\n{ended.stderr[-3000:]}"
        problems = [
            *leavings.living(bench.folder),
            *leavings.files(bench.folder, bench.homes()),
            *bench.left_in_store(),
            *bench.left_on_engine(),
        ]
        found = Usual(
            ended.summary["digest"], sorted(bench.tags()), ended.seconds, watch.first(), watch.span(), watch.seconds(),
            calls, bench.artifacts(), problems,
        )  # fmt: skip
        if not case.by_deployment and not (self.world.folder / "template").exists():
            shutil.copytree(bench.home / "prefect", self.world.folder / "template")
        first = next(iter(self.world.usual.values()), found)
        assert found.digest == first.digest, "each way to ship makes the same image"
        bench.remove()
        return found

    def _ship(
        self,
        bench: Bench,
        case: Case,
        pool: Pool,
        *,
        act: Callable[[int, float], bool] = lambda root, elapsed: True,
        prefix: tuple[str, ...] = (),
        home: Path | None = None,
        repository: str = "",
    ) -> Ended:
        more = ("--profile", POOL) if case.by_deployment else ()
        variables = self.world.prefect_client if case.by_deployment else {}
        began = time.monotonic()
        process = bench.start(*bench.arguments(*more, repository=repository), home=home, prefix=prefix, **variables)

        def alive() -> bool:
            if case.by_deployment and case.victim != "worker":  # the disturbance brings that one back
                pool.keep()
            return process.poll() is None

        watched(process.pid, act, alive, LONGEST)
        return self._end(bench, process, began)

    def _end(self, bench: Bench, process: subprocess.Popen[str], began: float) -> Ended:
        hangs = process.poll() is None
        if hangs:
            end_tree(process.pid)
            process.wait(60)
        ended = bench.ended(process, began, time.monotonic())
        return Ended(None, ended.seconds, ended.stdout, ended.stderr) if hangs else ended

    def run(self, case: Case) -> dict[str, Any]:
        """The record of the case, as it is kept."""
        began = time.monotonic()
        if why := self.world.engine.missing() if case.in_containers else "":
            return {**case.dump(), "outcome": "skipped", "problems": [], "why": why, "seconds": 0}
        if case.by_deployment:
            self.world.open_pool()
        usual = self.usual(case)
        if case.group == "beside":
            record = self._beside(case, usual)
        else:
            record = {"outcome": "missed", "problems": []}
            for attempt in range(_TRIES):
                nearer = Case(**{**case.dump(), "when": case.when * 0.6**attempt})
                record = self._disturbed(nearer, usual)
                if record["outcome"] != "missed":
                    break
        record["problems"] += [f"a ship that nobody disturbed: {one}" for one in usual.problems]
        usual.problems = []
        if record["problems"]:
            record["outcome"] = "failed"
        return {**case.dump(), **record, "seconds": round(time.monotonic() - began, 1)}

    def _disturbed(self, case: Case, usual: Usual) -> dict[str, Any]:
        world = self.world
        small = case.what in {"disk full", "store's disk full"}
        if small and not can_mount(world.folder / "mounts"):
            return {"outcome": "skipped", "problems": [], "why": "no file system can be mounted here"}
        bench = Bench(world, case.name, case)
        pool = Pool(bench)
        trouble = disturbance(case, world, usual, pool.restart, pool.pid)
        prefix: tuple[str, ...] = ()
        problems: list[str] = []
        try:
            if case.by_deployment:
                pool.start()
            if case.what == "disk full":
                template = world.folder / "template"
                size = sum(path.stat().st_size for path in template.rglob("*")) + int(case.when * 3 * _MB) + (64 << 10)
                prefix, trouble.done = in_namespace(size, bench.home, template), f"{size} bytes"
            if case.what == "store's disk full":
                trouble.done = self._shrink_store(int(case.when * 600_000) + 50_000)
            trouble.arm()
            first = self._ship(bench, case, pool, act=trouble, prefix=prefix)
            trouble.disarm()
            if case.what == "store's disk full":
                world.store.kill()
                world.store.begin = real_services.STORES[world.store_kind]
                world.store.start()
            if not trouble.done:
                return {"outcome": "missed", "problems": self._after(bench, case, usual, first, tried=False)}
            problems += self._said(case, first, usual, bench)
            second = self._ship(bench, case, pool)
            problems += self._ended_well(second, usual)
        finally:
            trouble.disarm()
            pool.stop()
        problems += self._left(bench, case, usual, second)
        outcome = "unharmed" if first.code == 0 else "resumed" if (first.code or 0) < 0 else "told"
        record = {
            "outcome": outcome, "where": trouble.done, "first": _short(first), "second": _short(second), "problems": problems,
        }  # fmt: skip
        if problems:
            record["shown"] = first.stderr[-2500:]
            record["shown_then"] = second.stderr[-1500:] if second.code else ""
        self._keep_or_remove(bench, problems)
        return record

    def _after(self, bench: Bench, case: Case, usual: Usual, only: Ended, *, tried: bool) -> list[str]:
        del tried
        problems = self._ended_well(only, usual)
        self._keep_or_remove(bench, problems)
        return [f"undisturbed: {one}" for one in problems] if not case.by_deployment or only.code != 0 else []

    def _shrink_store(self, size: int) -> str:
        store = self.world.store
        store.kill()
        data = store.folder / "data"
        store.begin = lambda folder: real_services.rclone(folder, in_namespace(size, data, data / "none"))
        store.start()
        return f"{size} bytes"

    def _said(self, case: Case, first: Ended, usual: Usual, bench: Bench) -> list[str]:
        """What is wrong with how the disturbed ship ended, and with what it left running or published."""
        problems = []
        if first.code is None:
            problems.append(f"hangs: not ended after {LONGEST:.0f} s")
        elif first.code == 0:
            problems += self._ended_well(first, usual)
        elif first.code < 0:
            if case.victim not in {"flow", "command"}:
                problems.append(f"ended by signal {-first.code}")
        elif first.code not in self.codes:
            problems.append(f"undocumented exit code {first.code}")
        if first.code and first.code > 0:
            said = [line for line in first.stderr.splitlines() if line.startswith("error: ")]
            if len(said) != 1:
                problems.append(f"{len(said)} lines that begin with error:")
        if "Traceback (most recent call last)" in first.stderr:
            problems.append("a traceback is shown")
        if first.code == 0 or (case.times == 1 and (first.code or -1) > 0):  # else the next one removes them
            problems += [f"after the first: {one}" for one in bench.left_on_engine()]
        if not case.by_deployment:  # there a run may go on
            problems += [f"after the first: {one}" for one in leavings.living(bench.folder)]
            if first.code is not None and first.code >= 0:
                problems += [
                    f"after the first: {one}" for one in leavings.files(bench.folder, bench.homes(), goes_on=True)
                ]
        wrong = {
            tag: digest
            for tag, digest in bench.tags().items()
            if tag in usual.tags
            and not tag.startswith("sha256-")
            and tag.startswith("candidate") is False
            and digest != usual.digest
        }
        if wrong:
            problems.append(f"a tag of another image: {wrong}")
        return problems

    def _ended_well(self, ended: Ended, usual: Usual) -> list[str]:
        if ended.code != 0:
            return [f"the ship ended with {ended.code}: {_last(ended)}"]
        if ended.summary.get("digest") != usual.digest:
            return [f"another digest: {ended.summary.get('digest')}"]
        return []

    def _left(self, bench: Bench, case: Case, usual: Usual, last: Ended) -> list[str]:
        found = leavings.living(bench.folder)
        found += leavings.files(bench.folder, bench.homes()) + bench.left_on_engine()
        store = bench.left_in_store()
        if case.victim != "store":  # a server that was killed leaves its own files, which the next one removes
            found += store
        for home in bench.homes():
            found += leavings.slots(home / "prefect" / "prefect.db")
        if case.by_deployment:
            found += leavings.slots(self.world.folder / "prefect-home" / "prefect" / "prefect.db", bench.began)
        if last.code == 0:
            if sorted(bench.tags()) != usual.tags:
                found.append(f"tags {sorted(bench.tags())}, not {usual.tags}")
            if bench.artifacts() != usual.artifacts:
                found.append(f"artifacts {bench.artifacts()}, not {usual.artifacts}")
        return [f"left: {one}" for one in found]

    def _beside(self, case: Case, usual: Usual) -> dict[str, Any]:
        bench = Bench(self.world, case.name, case)
        ships = {"two runs on one model": 2, "two runs in one folder": 2, "three runs on one store": 3}.get(
            case.what, 1
        )
        started: list[tuple[subprocess.Popen[str], float, str]] = []
        for number in range(ships):
            home = (
                bench.home if case.what == "two runs in one folder" or number == 0 else bench.new_home(f"home{number}")
            )
            repository = f"{case.name}/car{number}" if ships == 3 else bench.repository
            if number:
                time.sleep(case.when * usual.seconds / ships)
            process = bench.start(*bench.arguments(repository=repository), home=home)
            started.append((process, time.monotonic(), repository))
        others: list[tuple[subprocess.Popen[str], float]] = []
        if ships == 1:
            time.sleep(case.when * usual.seconds)
            swept = "sweep" in case.what
            home = bench.new_home("home-sweeping") if swept else bench.home
            others.append(
                (
                    bench.start("clean", "--older", "24h", *(["--shared-store"] if swept else []), home=home),
                    time.monotonic(),
                )
            )
        ends = []
        for process, began, repository in started:
            watched(process.pid, lambda root, elapsed: True, lambda one=process: one.poll() is None, LONGEST)
            ends.append((self._end(bench, process, began), repository))
        problems = []
        for process, began in others:
            watched(process.pid, lambda root, elapsed: True, lambda one=process: one.poll() is None, LONGEST)
            ended = self._end(bench, process, began)
            if ended.code != 0:
                problems.append(f"clean ended with {ended.code}: {_last(ended)}")
        for ended, repository in ends:
            problems += self._ended_well(ended, usual)
            if sorted(bench.tags(repository)) != usual.tags:
                problems.append(f"tags {sorted(bench.tags(repository))}, not {usual.tags}")
        bench.repository = ends[0][1]
        second = self._ship(bench, case, Pool(bench))
        problems += [*self._ended_well(second, usual), *self._left(bench, case, usual, second)]
        self._keep_or_remove(bench, problems)
        return {
            "outcome": "unharmed", "where": f"{case.when * usual.seconds:.1f} s", "first": _short(ends[-1][0]),
            "second": _short(second), "problems": problems,
        }  # fmt: skip

    def _keep_or_remove(self, bench: Bench, problems: list[str]) -> None:
        if not problems:
            bench.remove()


def _last(ended: Ended) -> str:
    said = [line for line in ended.stderr.splitlines() if line.startswith("error: ")] or ended.stderr.splitlines()[-1:]
    return said[-1][:400] if said else ""


def _short(ended: Ended) -> dict[str, Any]:
    return {"code": ended.code, "seconds": ended.seconds, "said": "" if ended.code == 0 else _last(ended)}
