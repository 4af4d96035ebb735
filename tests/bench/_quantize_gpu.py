"""Quantization on a GPU, everything in one process: `python tests/bench/_quantize_gpu.py FOLDER [--tiny]`.

Are the bytes the CPU's? How far is llm-compressor's own GPU path from its CPU path? How long does a checkpoint of 15 GB
take, against the floor and against `model_free_ptq`? What happens when the GPU is nearly full? Prints one JSON object a
line. `--tiny` is for a dry run without a GPU, where "cuda" then means the CPU. `_quantize_lanes.py` asks how the time depends
on shards, lanes and digests.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from compressed_tensors.utils import impl_backend
from safetensors import safe_open

from containers.digest import Digest
from containers.parameters import QuantizeParameters
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.devices import open_device
from containers.quantize.group_quantizer import quantize_group
from containers.quantize.layout import arrange, encode
from containers.quantize.preflight import prepare
from containers.quantize.resources import gpu_memory_needed
from containers.quantize.worker import run_lanes
from containers.store import FileEntry
from tests.bench._quantize_one import IGNORE, floor, make, ours, theirs

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMES: Final = ("FP8_DYNAMIC", "FP8_BLOCK", "W8A8")
DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def say(what: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"what": what, **facts}) + "\n")
    sys.stdout.flush()


def every_value(folder: Path) -> None:
    """A checkpoint of every finite 16-bit value (and as many 32-bit ones), rows of zeros and of the smallest values."""
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    tensors = {}
    for name, dtype in DTYPES.items():
        values = (
            bits.view(dtype)
            if dtype != torch.float32
            else torch.randint(-(2**31), 2**31 - 1, (65536,)).int().view(dtype)
        )
        values = values[torch.isfinite(values)]
        near = torch.randn(1 << 20).to(dtype)
        for what, source in (("every", values), ("near", near)):
            mixed = source[torch.randint(0, source.numel(), (1024 * 1024,))].view(1024, 1024).clone()
            mixed[:4] = 0
            mixed[4:8] = -0.0
            mixed[8:12] = torch.finfo(dtype).smallest_normal / 4
            tensors[f"model.layers.0.{what}_{name.lower()}.weight"] = (name, mixed)
    header = arrange((name, dtype, tuple(tensor.shape)) for name, (dtype, tensor) in tensors.items())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(encode(header.tensors))
        for place in header.tensors:
            file.write(memoryview(tensors[place.name][1].view(-1).view(torch.uint8).numpy()))
    (folder / "config.json").write_text("{}")


def compare(first: Path, second: Path) -> dict[str, Any]:
    """How many elements of how many differ between two checkpoints with the same tensors, and in which tensors most."""
    different, elements, worst = 0, 0, ("", 0.0)
    for path in sorted(first.glob("*.safetensors")):
        with safe_open(path, "pt") as one, safe_open(second / path.name, "pt") as other:
            for name in one.keys():  # noqa: SIM118 -- safe_open is no mapping
                left, right = one.get_tensor(name), other.get_tensor(name)
                size = left.element_size()
                unequal = int(
                    (left.view(-1).view(torch.uint8).view(-1, size) != right.view(-1).view(torch.uint8).view(-1, size))
                    .any(1)
                    .sum()
                )
                different += unequal
                elements += left.numel()
                if unequal / left.numel() > worst[1]:
                    worst = (name, unequal / left.numel())
    return {"different": different, "elements": elements, "worst": worst}


def same_everywhere(top: Path, source: Path, cuda: str) -> None:
    for scheme in SCHEMES:
        runs = {}
        for device in ("cpu", cuda):
            target = top / f"ours-{device.partition(':')[0]}"
            shutil.rmtree(target, ignore_errors=True)
            runs[device] = ours(source, target, device, 1, scheme)["digest"]
        say("ours: cpu against gpu", source=source.name, scheme=scheme, same=len(set(runs.values())) == 1)
        folders = {}
        for label, device, eager in (("cpu", "cpu", False), ("gpu", cuda, False), ("gpu-eager", cuda, True)):
            folders[label] = top / f"theirs-{label}"
            shutil.rmtree(folders[label], ignore_errors=True)
            impl_backend.ENFORCE_EAGER = eager
            theirs(source, folders[label], device, 1, scheme)
        impl_backend.ENFORCE_EAGER = False
        say(
            "theirs cpu against ours gpu",
            scheme=scheme,
            **compare(folders["cpu"], top / f"ours-{cuda.partition(':')[0]}"),
        )
        for label in ("gpu", "gpu-eager"):
            say(
                f"theirs: cpu against {label}",
                source=source.name,
                scheme=scheme,
                **compare(folders["cpu"], folders[label]),
            )


def speed(top: Path, cuda: str, *, tiny: bool) -> None:
    source = top / "large"
    names = ("layers", "hidden", "inner", "vocabulary", "shards")
    sizes = dict(zip(names, (3, 256, 512, 1024, 4) if tiny else (29, 4096, 14336, 128256, 4), strict=True))
    started = time.perf_counter()
    made = make(source, **sizes)
    say("made", seconds=time.perf_counter() - started, **made)
    digests = set()
    plan: list[tuple[str, int, dict[str, Any]]] = [
        ("floor", 4, {}),
        ("ours", 4, {}),
        ("ours", 4, {}),
        ("theirs", 1, {}),
        ("theirs", 4, {}),
        ("floor", 4, {}),
        ("ours", 4, {}),
        ("theirs", 1, {}),
        ("theirs", 4, {}),
        ("ours", 4, {"verify": False}),
        ("ours", 4, {"piece": 8 << 20}),
        ("ours", 4, {"piece": 128 << 20}),
        ("ours", 2, {}),
        ("ours", 1, {}),
    ]
    for what, lanes, more in plan:
        target = top / "out"
        shutil.rmtree(target, ignore_errors=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if what == "floor":
            facts = floor(source, target, lanes)
        else:
            facts = (ours if what == "ours" else theirs)(source, target, cuda, lanes, "FP8_DYNAMIC", **more)
        if what == "ours":
            digests.add(facts["digest"])
        if torch.cuda.is_available():
            facts["peak_gpu"] = torch.cuda.max_memory_allocated()
            facts["reserved_gpu"] = torch.cuda.max_memory_reserved()
        facts["peak_rss_so_far"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        say(what, wanted_lanes=lanes, **more, **facts)
    say("one digest over all runs", same=len(digests) == 1)


def nearly_full(top: Path, source: Path, cuda: str) -> None:
    """Leave the GPU less than its groups need and see the worker go on in smaller pieces."""
    target = top / "full"
    target.mkdir()
    job = prepare(FolderFiles(source), QuantizeParameters(ignore=IGNORE), {})
    device = open_device(job.recipe.scheme, cuda, 4)
    room = 100 << 20
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
    messages: list[str] = []

    def attempt(group: Any, with_device: Any) -> FileEntry:
        written = quantize_group(group, job.files, with_device, target / group.path)
        return FileEntry(path=group.path, size=written.size, sha256=written.sha256, layer=written.layer)

    shards = run_lanes(job.groups, device, 4, attempt=attempt, stop=threading.Event(), say=messages.append)
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)
    shutil.rmtree(top / "out", ignore_errors=True)
    ours(source, top / "out", cuda, 4, "FP8_DYNAMIC")
    same = all(Digest.of((top / "out" / path).read_bytes()) == entry.sha256 for path, entry in shards.items())
    say("nearly full", messages=messages, same=same)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    cuda = "cuda:0" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    block, started = bytes(1 << 30), time.perf_counter()
    Digest.of(block)
    say("sha256", gigabytes_per_second=1.0737 / (time.perf_counter() - started))
    say("machine", torch=torch.__version__, gpu=name, gpu_memory_planned=gpu_memory_needed(4))
    given.folder.mkdir(parents=True, exist_ok=True)
    small = given.folder / "small"
    make(small, layers=2 if given.tiny else 8, hidden=256, inner=512, vocabulary=1024, shards=3)
    every_value(given.folder / "every")
    attempts: list[Callable[[], None]] = [
        lambda: same_everywhere(given.folder, given.folder / "every", cuda),
        lambda: same_everywhere(given.folder, small, cuda),
        lambda: speed(given.folder, cuda, tiny=given.tiny),
        lambda: nearly_full(given.folder, given.folder / "large", cuda),
    ]
    for attempt in attempts:
        try:
            attempt()
        except Exception:  # noqa: BLE001 -- an hour on a GPU is not lost for one part that fails
            say("failed", trace=traceback.format_exc())


if __name__ == "__main__":
    main()
