"""What the docker launcher costs: a step that does nothing, beside a bare `docker run` that does nothing.

    python -m tests.bench.docker_launcher [--rounds N]

Both start a container of one image (a static busybox alone) and take it away again. The launcher also puts the request
and the secrets in, follows the lines, and takes the result out. The two take turns; medians of whole wall times.
"""

from __future__ import annotations

import argparse
import io
import json
import secrets
import shutil
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from containers.contract import Step, StepRequest
from containers.process import inherited, run
from flows.runners.docker.launcher import DockerLauncher
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

TARGET: Final = 0.3  # seconds more than the bare run
_STEP: Final = b"""#!/bin/sh
echo '{"step": "push"}' > "$6"
"""


def write_image(path: Path) -> None:
    """A tar of a root file system: busybox, and `python3`, a shell script that plays a step with nothing to do."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("install Debian's busybox-static")
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("bin")  # engines do not agree on the mode of a folder that the tar leaves out
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, content in (("bin/busybox", Path(busybox).resolve().read_bytes()), ("bin/python3", _STEP)):
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(content)
            archive.addfile(info, io.BytesIO(content))
        for name in ("sh", "true"):
            info = tarfile.TarInfo(f"bin/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(info)


def seconds(what: Callable[[], object]) -> float:
    started = time.monotonic()
    what()
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    image = f"carwright-bench-{secrets.token_hex(4)}:latest"
    docker = inherited("DOCKER_")
    with tempfile.TemporaryDirectory(prefix="carwright-bench-") as scratch:
        folder = Path(scratch)
        write_image(folder / "image.tar")
        run(["docker", "import", str(folder / "image.tar"), image], env=docker)
        settings = Settings(
            home=folder / "home",
            store={"access_key_id": "id", "secret_access_key": "key"},
            docker={"image": image, "project": "carwright-bench", "network": "none"},
        )
        launcher, request = DockerLauncher(settings), StepRequest(step=Step.PUSH, run="bench")
        bare, launched = [], []
        try:
            for _ in range(rounds + 1):
                argv = ["docker", "run", "--rm", "--network", "none", image, "true"]
                bare.append(seconds(lambda argv=argv: run(argv, env=docker)))  # type: ignore[misc]
                launched.append(seconds(lambda: launcher.run(request, lambda _: None)))
        finally:
            run(["docker", "rmi", "--force", image], env=docker)
    one, other = statistics.median(bare[1:]), statistics.median(launched[1:])  # the first of each warms up
    table = Table("what", "median", "fastest", title=f"a step that does nothing, {rounds} times")
    table.add_row("docker run --rm", f"{one:.3f} s", f"{min(bare[1:]):.3f} s")
    table.add_row("the docker launcher", f"{other:.3f} s", f"{min(launched[1:]):.3f} s")
    table.add_row("more (target)", f"{other - one:+.3f} s ({TARGET} s)", f"{other / one:.2f} times")
    Console().print(table)
    out = Path(".benchmarks")
    out.mkdir(exist_ok=True)
    record = {"rounds": rounds, "docker_run": one, "launcher": other, "more": other - one, "ratio": other / one}
    (out / "docker_launcher.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
