"""Where pip finds what a lock pins: as it is configured, and on PyTorch's own index what nobody else offers.

A version with the local label `cpu` (PEP 440), `torch==2.13.0+cpu`, names a build that the general index does not have:
PyTorch publishes its CPU builds on an index of its own. Such a package is looked up where pip is configured to look, like
all others, and only if nothing there offers it, on that index. No other package is ever asked for there, and every file
must have a locked hash, wherever it comes from.

That holds for what source packages are built with, too. Left to itself, pip makes an environment for each build and puts
the newest version of whatever the package asks for there, by no hash, and runs it. So nothing is fetched for a build: it
uses what the lock pins (`BUILD_TOOLS`), which is installed first, and fails without it.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from containers.errors import DiskFull, Temporary
from containers.pins import read_pins
from containers.process import Child, TimedOut
from infra.environments.pip_output import failure, is_absent
from infra.settings import PYTORCH_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from infra.environments.pip_output import PipOutput
    from infra.settings import Settings

_POLL: Final = 0.5  # seconds between two calls of `on_tick`: an installation goes on for tens of seconds
_OPTIONS: Final = (
    *("--no-input", "--no-deps", "--require-hashes", "--no-build-isolation"),
    *("--progress-bar=off", "--disable-pip-version-check"),
)
ONLY_WHEELS: Final = "--only-binary=:all:"
BUILD_TOOLS: Final = ("setuptools", "wheel")


@dataclass(frozen=True)
class PipIndexes:
    """`extra` is one more index for every package; `pytorch` is asked for CPU builds that no other one offers."""

    extra: SecretStr | None = None
    pytorch: SecretStr = field(default_factory=lambda: SecretStr(PYTORCH_INDEX))

    @classmethod
    def of(cls, settings: Settings) -> PipIndexes:
        return cls(settings.pip_extra_index_url, settings.pip_pytorch_index_url)

    def run(
        self,
        argv: Sequence[str],
        lock: str,
        variables: Mapping[str, str],
        output: PipOutput,
        *,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Run pip (`argv` with its command, without requirements) for all pins of a lock, which is a whole closure.

        Raises BadInput (a file with another hash, no index that has a package), Temporary (an index cannot be reached;
        the message names it) and DiskFull.
        """
        builds, others = split(lock)
        argv = [*argv, *_OPTIONS, "--retries=3"]  # without retries pip would not say that it reached no index
        extra = f"--extra-index-url {self.extra.get_secret_value()}\n" if self.extra is not None else ""
        with tempfile.TemporaryDirectory(prefix="carwright-pip-") as scratch:

            def attempt(requirements: str) -> int:
                # In a file: an index's URL may hold a password, and command lines are public.
                path = Path(scratch, "requirements.txt")
                path.touch(mode=0o600)
                path.write_text(requirements)
                output.begin()
                with Child([*argv, "-r", str(path)], dict(variables), on_line=output.line) as child:
                    while child.poll() is None:
                        with contextlib.suppress(TimedOut):
                            child.wait(_POLL)
                        on_tick()
                    return child.wait()

            # The ones that may be missing come first: nobody waits for the rest to hear of it.
            for name, pin in builds.items():
                if (code := attempt(extra + pin)) == 0:
                    continue
                if not is_absent(output.lines):
                    raise failure(output.name, code, output.lines)
                url = self.pytorch.get_secret_value()
                output.note(f"taking {name} from {masked(url)}")
                # In a requirements file this option stands in for all configured indexes, the extra ones included.
                if code := attempt(f"--index-url {url}\n{pin}"):
                    error = failure(output.name, code, output.lines)
                    if isinstance(error, Temporary) and not isinstance(error, DiskFull):
                        raise Temporary(
                            f"{error.message.partition(':')[0]}: {masked(url)} cannot be reached, and no other index offers "
                            f"{name}",
                            remedy="check the network and HTTPS_PROXY, or set CARWRIGHT_PIP_PYTORCH_INDEX_URL to a mirror",
                        ) from error
                    raise error
            if others and (code := attempt(extra + others)):
                raise failure(output.name, code, output.lines)


def split(lock: str) -> tuple[dict[str, str], str]:
    """The lines of each CPU build by its `name==version`, and the lines of all other pins."""
    builds: dict[str, str] = {}
    others = ""
    for block in re.split(r"(?m)^(?=\S)", lock):  # a pin's further lines are indented
        for name, version in read_pins(block).items():
            if is_cpu_build(version):
                builds[f"{name}=={version}"] = block
            else:
                others += block
    return builds, others


def build_tools(lock: str) -> str:
    """The lines of the pins that source packages are built with; a name that is pinned twice counts once."""
    found: dict[str, str] = {}
    for block in re.split(r"(?m)^(?=\S)", lock):
        for name in read_pins(block):
            if name in BUILD_TOOLS:
                found.setdefault(name, block)
    return "".join(found.values())


def is_cpu_build(version: str) -> bool:
    """Whether a version is one that PyTorch's index is asked for: with the local label `cpu`."""
    return version.endswith("+cpu")


def masked(url: str) -> str:
    """A URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
