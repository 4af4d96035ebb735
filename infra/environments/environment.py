"""The virtual environment of a step: made from its lock on first use, and used again for as long as the lock stays.

Environments lie under `<settings.cache>/envs/<name>-<12 hex digits>`, the digits being of the sha256 of the lock, the
Python version and the platform. `environment.json` in that folder is written last: a folder without it is what a killed
build left, and is built anew. (Not renamed into place: the scripts of a virtual environment hold its path.)

Nothing is compiled at build time. Python compiles what a step imports when it first imports it, 9 s of processor time
for vLLM, where compiling everything that is installed costs minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import sysconfig
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import containers
from containers import private
from containers.contract import Step
from containers.errors import BadInput, DiskFull, Error, is_disk_full
from containers.events import Event
from containers.fingerprints import arithmetic, lock_of, locked_version
from containers.interpreter import versions
from containers.process import ProcessFailed, inherited, run
from infra.environments import uv, wheel_tags
from infra.environments.device import device
from infra.environments.pip_indexes import ONLY_WHEELS, PipIndexes, build_tools
from infra.environments.pip_output import PipOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from infra.settings import Settings

ON_GPUS: Final = (Step.QUANTIZE, Step.SERVE)  # the steps that compute on GPUs where there are any
_PACKAGE: Final = Path(containers.__file__).parent
FINISHED: Final = "environment.json"
_ELSEWHERE: Final = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_REQUIREMENT")
_POLL: Final = 0.5  # seconds between two looks at a build that another run makes


@dataclass(frozen=True)
class Environment:
    """A finished virtual environment, or with `own` an interpreter of the user's; `modules` is a folder that exposes the
    package `containers` and nothing else.
    """

    folder: Path
    modules: Path
    own: Path | None = None

    @property
    def python(self) -> Path:
        return self.own or self.folder / "bin" / "python"

    def environment(self) -> dict[str, str]:
        """The variables that a step needs on top of `containers.process.inherited()`."""
        return {"PYTHONPATH": str(self.modules), "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}


def prepare(step: Step, settings: Settings, on_event: Callable[[Event], None]) -> Environment:
    """The environment of a step for the device that it will compute on, or the user's own; see `ensure`.

    With a vLLM of the user's own, the step that starts it runs in the environment of push, which has all that it needs.
    """
    if step is Step.QUANTIZE and settings.quantize.python is not None:
        return _own(settings.quantize.python, step, settings.cache)
    name, lock = _locked(step, settings)
    return ensure(name, lock, settings.cache, on_event=on_event, indexes=PipIndexes.of(settings))


def _own(python: Path, step: Step, cache: Path) -> Environment:
    """An environment that the user has made. Raises BadInput when it has other versions of what does the arithmetic than
    the lock: results are named by the lock's.
    """
    found = versions(python, arithmetic(step))
    for name in arithmetic(step):
        if found.get(name) != (wanted := locked_version(step, name)):
            raise BadInput(
                f"{python} has {name} {found[name]}" if name in found else f"{python} has no {name}",
                remedy=f"install {name}=={wanted} there, or unset CARWRIGHT_{step.upper()}__PYTHON",
            )
    return Environment(python.parent, _expose(cache.expanduser().absolute()), own=python)


def _locked(step: Step, settings: Settings) -> tuple[str, Path]:
    """The name and the lock of the environment that is made for a step."""
    if step is Step.SERVE and settings.serve.python is not None:
        step = Step.PUSH
    cuda = step in ON_GPUS and device(settings) == "cuda"
    return _name(step, cuda=cuda), lock_of(step, cuda=cuda)


def check(steps: Iterable[Step], settings: Settings) -> None:
    """Raises BadInput when this Python can never install what one of the steps needs; fetches nothing."""
    for step in steps:
        if step is Step.QUANTIZE and settings.quantize.python is not None:
            continue
        name, lock = _locked(step, settings)
        wheel_tags.check(name, lock.read_text())


def ensure(
    name: str,
    lock: Path,
    cache: Path,
    *,
    on_event: Callable[[Event], None],
    indexes: PipIndexes = PipIndexes(),  # noqa: B008 - frozen
) -> Environment:
    """Make the environment unless it is there; two runs that want the same one wait for each other.

    Raises BadInput (no such lock, no wheel for this Python, a file with another hash, no index that has a package),
    Temporary (no index answers) and DiskFull.
    """
    cache = cache.expanduser().absolute()
    try:
        content = lock.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read the lock {lock}: {error.strerror}") from error
    wheel_tags.check(name, content.decode())
    folder = cache / "envs" / f"{name}-{key(content)}"
    try:
        environment = Environment(folder, _expose(cache))
        if not _finished(environment):
            private.folder(cache, "envs")  # who could write there would run programs as this user
            with _exclusive(lock_file(folder), name, on_event):
                if not _finished(environment):  # nobody else made it while this run waited
                    _Builder(environment, name, lock, indexes, on_event).build()
    except OSError as error:
        raise _disk(error, cache) from error
    return environment


def key(lock: bytes) -> str:
    """What tells one environment from another: 12 hex digits of lock, Python and platform."""
    where = f"{platform.python_implementation()} {platform.python_version()} {sysconfig.get_platform()}"
    return hashlib.sha256(lock + b"\0" + where.encode()).hexdigest()[:12]


def environment_name(step: Step, digits: str, *, cuda: bool) -> str:
    """The name of a step's folder; `digits` is what `key` says of its lock."""
    return f"{_name(step, cuda=cuda)}-{digits}"


def lock_file(folder: Path) -> Path:
    """The file that is locked while an environment is built or removed."""
    return folder.with_name(f".{folder.name}.lock")


def _name(step: Step, *, cuda: bool) -> str:
    return f"{step}-cuda" if cuda else step.value


def _finished(environment: Environment) -> bool:
    """Finished, and its interpreter, a link to the one that made it, still leads somewhere.

    It is dated first, as used now: who removes what is old takes the file away and then looks at its date.
    """
    try:
        os.utime(environment.folder / FINISHED)
    except PermissionError:  # another user's, who removes nothing that this one may not
        pass
    except OSError:
        return False
    return (environment.folder / FINISHED).is_file() and environment.python.exists()


@dataclass(frozen=True)
class _Builder:
    """Makes one environment; whoever calls it holds the environment's file lock."""

    environment: Environment
    name: str
    lock: Path
    indexes: PipIndexes
    on_event: Callable[[Event], None]

    def build(self) -> None:
        started = time.monotonic()
        folder = self.environment.folder
        if folder.exists():
            shutil.rmtree(folder)
        self._log(f"making the environment of {self.name} (first use)")
        try:
            make_empty(folder)  # without pip: the flow's own serves it, and installing another takes 4 s
            packages = self._install()
            seconds = round(time.monotonic() - started, 1)
            about = {"name": self.name, "packages": packages, "seconds": seconds, "python": platform.python_version()}
            unfinished = folder / f".{FINISHED}"
            unfinished.write_text(json.dumps(about) + "\n")
            unfinished.replace(folder / FINISHED)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._log(f"made the environment of {self.name}: {packages} packages in {seconds:.0f} s")

    def _install(self) -> int:
        """Install the lock, which is a whole closure, and return the number of packages.

        First what its source packages are built with: they are built in this very environment.
        """
        lock = self.lock.read_text()
        output = PipOutput(self.name, lock, self.on_event)
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(self.environment.folder)}))
        python = self.environment.python

        def on_tick() -> None:
            output.installed(sum(1 for _ in packages.glob("*.dist-info")))

        def install(pins: str, *, only_wheels: bool) -> None:
            if uv.install(python, pins, self.indexes, output, on_tick=on_tick, only_wheels=only_wheels):
                return
            variables = {key: value for key, value in inherited("PIP_", "XDG_CONFIG_").items() if key not in _ELSEWHERE}
            argv = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-compile"]
            if only_wheels:
                argv.append(ONLY_WHEELS)
            self.indexes.run(argv, pins, variables, output, on_tick=on_tick)

        if tools := build_tools(lock):
            install(tools, only_wheels=True)
        install(lock, only_wheels=False)
        return output.total

    def _log(self, message: str) -> None:
        self.on_event(Event(event="log", message=message))


def make_empty(folder: Path) -> None:
    """An environment without packages and without pip. Raises BadInput where Python has no `venv`, DiskFull."""
    try:
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)], env=inherited(), timeout=120)
    except ProcessFailed as error:
        if "No module named venv" in error.output:
            raise BadInput(
                "this Python cannot make virtual environments: it has no module venv",
                remedy="install it (Debian: apt-get install python3-venv) or use another Python 3.11",
            ) from error
        if "No space left" in error.output:
            raise _no_space(folder) from error
        raise


def _expose(cache: Path) -> Path:
    """A folder with a link to the package `containers`, so that nothing else of the flow's libraries is on the path."""
    folder = private.folder(cache, "modules") / hashlib.sha256(str(_PACKAGE).encode()).hexdigest()[:12]
    link = folder / _PACKAGE.name
    if not link.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{_PACKAGE.name}.{os.getpid()}.{threading.get_ident()}"
        unfinished.symlink_to(_PACKAGE, target_is_directory=True)
        unfinished.replace(link)
    return folder


@contextlib.contextmanager
def _exclusive(path: Path, name: str, on_event: Callable[[Event], None]) -> Iterator[None]:
    """Hold a file lock (flock(2)); it is given up when this process ends, in whatever way."""
    with path.open("a") as file:
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    on_event(
                        Event(event="log", message=f"another run is making the environment of {name}; waiting for it")
                    )
                waiting = True
                time.sleep(_POLL)
        yield


def _disk(error: OSError, cache: Path) -> Error:
    if is_disk_full(error):
        return _no_space(cache)
    return BadInput(f"cannot write under {cache}: {error.strerror}", remedy="set CARWRIGHT_CACHE to a writable folder")


def _no_space(folder: Path) -> DiskFull:
    return DiskFull(
        f"no space left under {folder}", remedy="free some space, or set CARWRIGHT_CACHE to a folder on a larger disk"
    )
