"""The GPUs of a machine, as a driver's own command lists them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from infra import accelerators
from infra.environments import device
from infra.settings import FlowServeSettings, PlacementSettings, QuantizeSettings, Settings
from tests.support.environment_desk import Desk
from tests.support.gpus import OLD_CARD, OLD_DRIVER, TWO, driver
from tests.support.package_index import pin, wheel

if TYPE_CHECKING:
    from pathlib import Path


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


def test_a_driver_too_old_to_be_asked_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 510 nvidia-smi does not know the field compute_cap and refuses the whole question, with code 2."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        "case $1 in *compute_cap*) echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2;; esac\n"
        "echo '0, GPU-1, Tesla V100-SXM2-32GB, 32510, 32000, 470.256.02'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = accelerators.gpus()
    assert (found.name, found.memory, found.capability) == ("Tesla V100-SXM2-32GB", 32510 << 20, (0, 0))
    assert device.device(Settings()) == "cpu"
    with pytest.raises(BadInput, match=r"driver 470\.256\.02 is too old for CUDA 13"):
        device.device(Settings(device="cuda"))


def plugged_in(bus: Path, number: int, vendor: str, kind: str) -> None:
    (bus / f"0000:0{number}:00.0").mkdir(parents=True)
    (bus / f"0000:0{number}:00.0" / "vendor").write_text(f"{vendor}\n")
    (bus / f"0000:0{number}:00.0" / "class").write_text(f"{kind}\n")


def test_cards_are_seen_without_a_driver(tmp_path: Path) -> None:
    """An H100 (3D controller) and a card with a display; not their audio devices, nor another maker's."""
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x030200"), ("0x10de", "0x030000"), ("0x10de", "0x040300"), ("0x1002", "0x030000")]
    ):
        plugged_in(tmp_path, number, vendor, kind)
    assert accelerators.cards(tmp_path) == 2
    assert accelerators.cards(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("listed", "said"),
    [(OLD_DRIVER, "driver 535.104.05 is too old"), (OLD_CARD, "compute capability 6.0 is below"), (TWO, "")],
)
def test_a_machine_whose_gpus_go_unused_says_why_once(
    listed: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, listed)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lines: list[str] = []
    device.check(Settings(), lines.append)
    assert len(lines) == bool(said)
    assert said in "".join(lines)
    lines.clear()
    device.check(Settings(device="cpu"), lines.append)  # as it was asked
    device.check(Settings(launcher="docker"), lines.append)  # its containers have what the settings give them
    device.check(Settings(placement=PlacementSettings(quantize="a/b", serve="a/b")), lines.append)
    assert not lines


def test_gpus_that_are_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, OLD_DRIVER)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(BadInput, match="is too old for CUDA 13") as caught:
        device.check(Settings(device="cuda"), print)
    assert caught.value.exit_code == 2
    # Libraries of the user's own may run on an older driver; without any GPU they cannot.
    own = {"quantize": QuantizeSettings(python=sys.executable), "serve": FlowServeSettings(python=sys.executable)}
    device.check(Settings(device="cuda", **own), print)
    driver(tmp_path, monkeypatch, "")
    with pytest.raises(BadInput, match="there is no NVIDIA driver"):
        device.check(Settings(device="cuda", **own), print)


def test_a_vllm_for_gpus_is_not_asked_to_use_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk.at(tmp_path, monkeypatch)
    desk.lock.write_text(pin(wheel(desk.index, "vllm", "0.31.0")))
    settings = Settings(device="cpu", serve=FlowServeSettings(python=desk.make().python))
    with pytest.raises(BadInput, match=r"has vllm 0\.31\.0, which serves on GPUs alone"):
        device.check(settings, print)
    desk.lock.write_text(pin(wheel(desk.index, "vllm", "0.31.0+cpu")))
    device.check(Settings(device="cpu", serve=FlowServeSettings(python=desk.make().python)), print)
