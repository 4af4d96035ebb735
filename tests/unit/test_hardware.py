"""What a model is served on, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.hardware import gpus, processors, this_machine
from tests.support.gpus import driver

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_processors_have_the_name_that_the_kernel_gives_them(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Toy  CPU @ 2GHz\n\nprocessor\t: 1\nmodel name\t: Toy  CPU @ 2GHz\n"
    )
    assert processors(cpuinfo, count=2) == "2 x Toy CPU @ 2GHz"
    assert " x " in processors(tmp_path / "none")


def test_a_machine_is_told_from_another_without_its_id(tmp_path: Path) -> None:
    ids = tmp_path / "machine-id"
    ids.write_text("0123456789abcdef0123456789abcdef\n")
    first = this_machine(ids)
    assert len(first) == 8
    assert first not in ids.read_text()
    ids.write_text("fedcba9876543210fedcba9876543210\n")
    assert this_machine(ids) != first
    assert len(this_machine(tmp_path / "none")) == 8


def test_gpus_are_named_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "0, NVIDIA H100 80GB HBM3\n1, NVIDIA H100 80GB HBM3\n2, NVIDIA L40S\n")
    assert gpus(("1",), 1) == "1 x NVIDIA H100 80GB HBM3"
    assert gpus(("0", "1"), 2) == "2 x NVIDIA H100 80GB HBM3"
    assert gpus((), 2) == "2 x NVIDIA H100 80GB HBM3"
    assert gpus((), 3) == "2 x NVIDIA H100 80GB HBM3 and 1 x NVIDIA L40S"
    driver(tmp_path, monkeypatch, "", code=9)
    assert gpus((), 1) == ""
