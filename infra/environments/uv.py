"""Installs a lock with uv, in a tenth of pip's time when its cache is warm.

uv is told what pip is configured with. Whatever it cannot do, for whatever reason, is left to pip, which is the one that
says what is wrong: so there is one set of messages, and a configuration that uv does not understand works.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.process import Child, TimedOut, inherited
from infra.environments import pip_configuration
from infra.environments.pip_indexes import masked, split

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.environments.pip_indexes import PipIndexes
    from infra.environments.pip_output import PipOutput

_POLL: Final = 0.5  # seconds between two calls of `on_tick`
# Of the user's variables; others could install elsewhere.
_OWN: Final = ("UV_CACHE_DIR", "UV_HTTP_RETRIES", "UV_LINK_MODE", "UV_OFFLINE")
_OPTIONS: Final = (
    *("--no-config", "--no-progress", "--no-python-downloads", "--no-deps", "--require-hashes", "--no-build-isolation"),
    "--index-strategy=unsafe-best-match",  # as pip does; hashes guard what is installed
)
_LARGE: Final = re.compile(r"\s*Downloading (?P<what>\S+ \((\d{3,}\.\d+MiB|[\d.]+GiB)\))")  # what a person waits for


def program() -> Path | None:
    """The uv that is installed beside this Python, and no other: another version may understand a lock otherwise."""
    beside = Path(sys.executable).with_name("uv")
    return beside if beside.is_file() else None


def install(
    python: Path,
    lock: str,
    indexes: PipIndexes,
    output: PipOutput,
    *,
    on_tick: Callable[[], None] = lambda: None,
    only_wheels: bool = False,
) -> bool:
    """Whether uv installed all pins of a lock into the environment of `python`. If not, pip has to.

    Source packages, unless there are to be `only_wheels`, are built with what that environment has already.
    """
    uv = program()
    options = pip_configuration.read()
    if uv is None or not pip_configuration.is_understood(options):
        return False
    own = {name: value for name, value in inherited("UV_").items() if name in _OWN or not name.startswith("UV_")}
    variables = own | {"UV_SYSTEM_CERTS": "1"} | pip_configuration.variables(options, indexes.extra)

    said: list[str] = []

    def line(text: str) -> None:
        said.append(text)
        if found := _LARGE.match(text):
            output.note(f"downloading {found['what']}")

    def attempt(pages: list[str]) -> bool:
        said.clear()
        argv = [str(uv), "pip", "install", "--python", str(python), *_OPTIONS, "-r", str(path)]
        argv += ["--only-binary=:all:"] if only_wheels else []
        links = ",".join(filter(None, [variables.get("UV_FIND_LINKS"), *pages]))
        with Child(argv, variables | {"UV_FIND_LINKS": links}, on_line=line) as child:
            while child.poll() is None:
                with contextlib.suppress(TimedOut):
                    child.wait(_POLL)
                on_tick()
            return child.wait() == 0

    builds = {} if "UV_NO_INDEX" in variables else dict(pin.split("==") for pin in split(lock)[0])
    taken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="carwright-uv-") as scratch:
        path = Path(scratch, "requirements.txt")
        path.write_text(lock)
        while not attempt(indexes.pages(taken)):
            # It names one at a time. What is configured goes before PyTorch's index, for each of them.
            absent = [name for name in builds if name not in taken and is_absent(name, "\n".join(said))]
            if not absent:
                return False
            taken += absent
            for name in absent:
                output.note(f"taking {name}=={builds[name]} from {masked(indexes.pytorch.get_secret_value())}")
    return True


def is_absent(name: str, output: str) -> bool:
    """Whether uv has found no such package at all, or not in the version that was asked for."""
    return bool(re.search(rf"no version of {re.escape(name)}==|\b{re.escape(name)} was not found in", output))
