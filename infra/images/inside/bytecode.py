"""Compile the modules under a folder that have no .pyc files yet, to ones that are the same on every build.

    python bytecode.py FOLDER [FINAL]

FINAL is where FOLDER will lie in the image. The files are never checked against their source (PEP 552): an image does not
change, and dates, by which Python checks otherwise, are no part of it. Bytes of a .pyc file depend on what its process
compiled before (shared strings are counted), so the work is dealt to a fixed number of processes in a fixed order;
PYTHONHASHSEED must be set.
"""

from __future__ import annotations

import multiprocessing
import py_compile
import re
import sys
from importlib.util import cache_from_source
from pathlib import Path

PROCESSES = 4  # part of the result: not the number of cores
# What a run imports a few files of, if any: compiling all of it would take longer than all the rest.
_RARE = re.compile(
    r"/(tests?|testing|idlelib|lib2to3|pydoc_data|turtledemo|distributed/_shard|_inductor/autoheuristic|onnx)/"
    r"|/transformers/models/(?!auto/|llama/|gpt2/|mistral/|qwen[23]/)"
    r"|/vllm/model_executor/models/(?!llama|registry|utils|interfaces|adapters|module_mapping|config|__init__)"
    r"|/sympy/(physics|stats|diffgeom|geometry|vector|holonomic|liealgebras|crypto|plotting)/"
)


def main(folder: Path, final: Path) -> int:
    files = [path for path in sorted(folder.rglob("*.py")) if path.is_file() and not _RARE.search(f"/{path}")]
    files = [path for path in files if not Path(cache_from_source(path)).exists()]  # those of a layer beneath
    shares: list[list[Path]] = [[] for _ in range(PROCESSES)]
    whole = sum(path.stat().st_size for path in files) or 1
    done = 0
    for path in files:
        shares[min(done * PROCESSES // whole, PROCESSES - 1)].append(path)
        done += path.stat().st_size
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=compile_all, args=(share, folder, final)) for share in shares if share]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max((abs(worker.exitcode or 0) for worker in workers), default=0)


def compile_all(files: list[Path], folder: Path, final: Path) -> None:
    """One process's share; what is not Python 3.11 (templates, code for other versions) stays as it is."""
    for path in files:
        try:
            py_compile.compile(
                str(path),
                dfile=str(final / path.relative_to(folder)),
                doraise=True,
                quiet=2,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except (py_compile.PyCompileError, ValueError):
            continue


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[-1])))
