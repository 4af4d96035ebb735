"""SHA-256 on one core and on all: `python -m tests.bench.hashing [--gb 1] [--runs 5]`.

Random bytes, in memory and as a file in the page cache, each way in turn; the best of the runs counts. The floor is hashlib's
one pass. BLAKE3 and cryptography's SHA-256 are measured beside it where somebody has installed `blake3` and `cryptography`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from containers.sha256 import Sha256, Verification, hash_file, verify_file

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 8 << 20  # as the quantization reads on a CPU


def others(content: bytes) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    try:
        from cryptography.hazmat.primitives import hashes

        def cryptography() -> None:
            hashed = hashes.Hash(hashes.SHA256())
            hashed.update(content)
            hashed.finalize()

        found["cryptography, one pass"] = cryptography
    except ImportError:
        pass
    try:
        from blake3 import blake3  # type: ignore[import-not-found]  # nothing of ours needs it

        found["BLAKE3, one core"] = lambda: blake3(content).digest()
        found["BLAKE3, all cores"] = lambda: blake3(content, max_threads=blake3.AUTO).digest()
    except ImportError:
        pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gb", type=float, default=1)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    content = os.urandom(int(given.gb * 1e9))
    noted = Sha256()
    noted.update(content)
    digest, midstates = noted.digest(), noted.midstates

    def one_pass() -> None:
        hashed = Sha256()
        hashed.update(content)
        assert hashed.digest() == digest

    def verified(midstates: bytes) -> None:
        check, view = Verification(digest, len(content), midstates), memoryview(content)
        for start in range(0, len(content), _PIECE):
            check.update(view[start : start + _PIECE])
        assert check.right()

    with tempfile.NamedTemporaryFile(prefix="carwright-bench-", dir=Path.cwd()) as file:
        file.write(content)
        file.flush()
        ways: dict[str, Callable[[], object]] = {
            "hashlib, one pass": lambda: hashlib.sha256(content).digest(),
            "one pass that notes midstates": one_pass,
            "verified without midstates": lambda: verified(b""),
            "verified with midstates": lambda: verified(midstates),
            "a file, one pass": lambda: hash_file(Path(file.name)),
            "a file, verified with midstates": lambda: verify_file(file.fileno(), len(content), digest, midstates),
            **others(content),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(given.runs):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                best[name] = min(best[name], time.perf_counter() - started)
    floor = best["hashlib, one pass"]
    table = Table("way", "GB/s", "of hashlib's", title=f"{given.gb:g} GB, {os.cpu_count()} cores")
    for name, seconds in best.items():
        table.add_row(name, f"{len(content) / seconds / 1e9:.2f}", f"{floor / seconds:.2f}")
    Console().print(table)
    out = Path(".benchmarks")
    out.mkdir(exist_ok=True)
    (out / "hashing.json").write_text(json.dumps(best, indent=2) + "\n")


if __name__ == "__main__":
    main()
