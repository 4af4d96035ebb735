"""GPUs that a machine need not have: an nvidia-smi that lists them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# As nvidia-smi 580 prints them, and as 535 did.
TWO = """\
0, GPU-1b2c, NVIDIA H100 80GB HBM3, 81559, 81079, 580.159.03, 9.0
1, GPU-9f0e, NVIDIA H100 80GB HBM3, 81559, 12, 580.159.03, 9.0
"""
OLD_DRIVER = "0, GPU-1, NVIDIA L40S, 46068, 45000, 535.104.05, 8.9\n"
OLD_CARD = "0, GPU-1, Tesla P100-PCIE-16GB, 16384, 16000, 580.65.06, 6.0\n"


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, output: str, code: int = 0) -> None:
    """An nvidia-smi that prints this, first on the PATH."""
    (folder / "said").write_text(output)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat '{folder}/said'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
