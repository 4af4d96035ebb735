"""How long `carwright serve` takes on a GPU, as planned and with vLLM's default: `python -m tests.bench._serve_load_formats FOLDER`.

A checkpoint of `--gb` in 4 shards is made in FOLDER. Then the command serves it, as a person would start it, first as planned and
then with `--vllm-argument=--load-format=auto`; both have another argument for vLLM, so that each asks it about its arguments.
Prints what the plan says, what vLLM says of loading, and the lines of a table. `--demo` is the folder of the demo model, for its
tokenizer; without it that model is made.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
from pathlib import Path
from typing import Final

from containers.process import Child, inherited
from infra.settings import Settings
from tests.bench._vllm_checkpoint import make

_TELLING: Final = re.compile(
    r"\bplan\b|load the weights|[Ll]oading weights took|Model loading took|GPU KV cache size|is ready at"
)
_READY: Final = "is ready at"


def serve(folder: Path, home: Path, more: list[str], timeout: float) -> tuple[float, list[str]]:
    """Seconds until the command says that the model is ready (0: it never did), and the lines that tell something."""
    said: list[str] = []
    ready = threading.Event()

    def listen(line: str) -> None:
        if _TELLING.search(line):
            said.append(line.strip())
        if _READY in line:
            ready.set()

    argv = [str(Path(sys.executable).with_name("carwright")), "serve", f"file://{folder}", "--port", "0", "--verbose"]
    started = time.monotonic()
    with Child(
        [*argv, *more],
        {**inherited("CUDA_", "VLLM_", "NCCL_", "CARWRIGHT_"), "CARWRIGHT_HOME": str(home)},
        on_line=listen,
    ) as child:
        while not ready.wait(0.5) and child.poll() is None and time.monotonic() - started < timeout:
            pass
        seconds = time.monotonic() - started if ready.is_set() else 0.0
        if not ready.is_set():
            said.append(child.tail)
    for log in sorted(home.rglob("engine.log"), key=lambda path: path.stat().st_mtime)[-1:]:
        said += [line.strip() for line in log.read_text(errors="replace").splitlines() if _TELLING.search(line)]
    return seconds, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gb", type=float, default=8.0)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--seconds", type=float, default=150.0, help="that each start may take")
    parser.add_argument("--argument", default="--enforce-eager", help="for vLLM, both times")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model" / "config.json").exists():
        make(folder / "model", given.gb, 4, Settings(), given.demo)
    rows = []
    for name, more in (("as planned", []), ("vLLM's default", ["--vllm-argument=--load-format=auto"])):
        arguments = [f"--vllm-argument={given.argument}", *more]
        seconds, said = serve(folder / "model", folder / name.replace(" ", "-"), arguments, given.seconds)
        print(f"{name}:", *said, sep="\n    ", flush=True)
        weights = next((match[1] for line in said if (match := re.search(r"weights took ([\d.]+)", line))), "")
        rows.append((name, f"{seconds:.1f}" if seconds else "not ready", weights))
    headings = ("load format", "command until ready, s", "of it loading weights, s")
    for row in (headings, ("---",) * len(headings), *rows):
        sys.stdout.write(f"| {' | '.join(row)} |\n")


if __name__ == "__main__":
    main()
