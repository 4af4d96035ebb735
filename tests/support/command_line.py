"""The command `carwright` as a person runs it, in a folder of the test's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from containers.process import inherited

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class CommandLine:
    """`carwright` in a folder, on a terminal of 200 columns, with a cache of its own."""

    folder: Path

    def __call__(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, whatever its exit code; `variables` are added to its environment."""
        environment = inherited() | {
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "CARWRIGHT_CACHE": str(self.folder / "cache"),
            "CARWRIGHT_REGISTRY__ATTEMPTS": "2",
        }
        return subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *map(str, arguments)],
            env=environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
