"""The GPUs of a machine, as a driver's own command lists them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from infra import accelerators
from infra.environments import device
from infra.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

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


def test_they_are_read_with_memory_driver_and_capability() -> None:
    first, second = accelerators.parse(TWO)
    assert (first.index, first.name, first.uuid) == (0, "NVIDIA H100 80GB HBM3", "GPU-1b2c")
    assert (first.memory, first.free) == (81559 << 20, 81079 << 20)
    assert (second.free, second.driver, second.capability) == (12 << 20, "580.159.03", (9, 0))


def test_lines_of_lost_cards_are_passed_over() -> None:
    assert accelerators.parse("Unable to determine the device handle for GPU0\n, , , , , ,\n") == ()
    assert accelerators.parse("0, GPU-1, NVIDIA GH200, [N/A], [N/A], 580.1, 9.0\n") == ()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1]), ("", []), ("1", [1]), ("1,0", [1, 0]), ("GPU-9f", [1]), ("0,7,1", [0]), ("-1", []), ("0, 1", [0, 1]),
        ("GPU-", []),
    ],
)  # fmt: skip
def test_the_users_choice_counts_as_it_does_for_cuda(visible: str | None, expected: list[int]) -> None:
    assert [one.index for one in accelerators.chosen(accelerators.parse(TWO), visible)] == expected


def test_without_a_driver_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accelerators.gpus() == ()
    assert device.device(Settings()) == "cpu"
    with pytest.raises(BadInput, match="there is no NVIDIA driver"):
        device.device(Settings(device="cuda"))


def test_a_driver_with_gpus_is_used_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, TWO)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [one.index for one in accelerators.gpus()] == [0, 1]
    assert device.device(Settings()) == "cuda"
    assert device.device(Settings(device="cpu")) == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.device(Settings()) == "cpu"


def test_no_devices_is_no_error_and_a_broken_driver_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "No devices were found\n", code=6)
    assert accelerators.gpus() == ()
    driver(tmp_path, monkeypatch, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9)
    with pytest.raises(BadInput, match="couldn't communicate") as raised:
        accelerators.gpus()
    assert "--device cpu" in raised.value.remedy


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (OLD_DRIVER, "driver 535.104.05 is too old for CUDA 13, which needs 580"),
        (OLD_CARD, "compute capability 6.0 is below 7.5"),
    ],
)
def test_what_the_locked_builds_do_not_run_on_is_one_clear_line(
    listed: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, listed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device.device(Settings()) == "cpu"
    with pytest.raises(BadInput, match=said):
        device.device(Settings(device="cuda"))
