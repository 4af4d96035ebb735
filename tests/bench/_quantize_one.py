"""One measurement of quantization, in a process of its own: started by `tests.bench.quantize` and on machines with a GPU.

    python tests/bench/_quantize_one.py make FOLDER [--layers N] [--hidden H] [--inner I] [--shards K]
    python tests/bench/_quantize_one.py ours|theirs|floor SOURCE TARGET [--device D] [--lanes N] [--scheme S]

Needs torch, compressed-tensors and llm-compressor (the environment of the quantize step). Prints one JSON object. Times
are in seconds and start when everything is imported; memory is the highest resident set of the process in bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from containers.digest import Digest
from containers.parameters import QuantizeParameters
from containers.quantize.assemble import config_json, index_json, quantization_config
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.devices import open_device
from containers.quantize.group_quantizer import quantize_group
from containers.quantize.layout import arrange, encode
from containers.quantize.preflight import prepare
from containers.quantize.resources import lanes_for, largest_first
from containers.sha256 import Verification, hash_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containers.checkpoint_files import CheckpointFile

_BLOCK: Final = 8 << 20
DIGESTS: Final = ".digests.json"
IGNORE: Final = ("lm_head", "re:.*embed_tokens.*")


class KnownFiles(FolderFiles):
    """A folder whose files have digests, as blobs of the store do, and so cost what those cost to read: a hash.

    With `midstates` it is taken on all cores, as of what this version stored; without, in one pass, as before.
    """

    def __init__(self, folder: Path, hashed: Mapping[str, tuple[Digest, bytes]], *, midstates: bool) -> None:
        super().__init__(folder)
        self._hashed, self._midstates = hashed, midstates

    def listing(self) -> tuple[CheckpointFile, ...]:
        found = {file.path: file for file in super().listing()}
        return tuple(
            replace(file, sha256=self._hashed[path][0] if path in self._hashed else None)
            for path, file in found.items()
        )

    def verification(self, file: CheckpointFile) -> Verification:
        digest, midstates = self._hashed[file.path]
        return Verification(digest, file.size, midstates if self._midstates else b"")


def known(folder: Path, *, midstates: bool) -> KnownFiles:
    """The digests were written down when the checkpoint was made; computing them is no part of a measurement."""
    hashed = json.loads((folder / DIGESTS).read_text())
    found = {path: (Digest(digest), bytes.fromhex(states)) for path, (digest, states) in hashed.items()}
    return KnownFiles(folder, found, midstates=midstates)


def write_digests(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        shards = sorted(folder.glob("*.safetensors"))
        hashed = {path.name: one for path, one in zip(shards, pool.map(hash_file, shards), strict=True)}
    noted = {path: (one.digest().hex, one.midstates.hex()) for path, one in hashed.items()}
    (folder / DIGESTS).write_text(json.dumps(noted))


def shapes(layers: int, hidden: int, inner: int, vocabulary: int) -> list[dict[str, tuple[int, ...]]]:
    """The tensors of a Llama, one entry a layer, behind one for the embedding and one for the head."""
    key_value = hidden // 4
    parts: list[dict[str, tuple[int, ...]]] = [{"model.embed_tokens.weight": (vocabulary, hidden)}]
    for index in range(layers):
        layer = f"model.layers.{index}"
        parts.append(
            {
                f"{layer}.input_layernorm.weight": (hidden,),
                f"{layer}.mlp.down_proj.weight": (hidden, inner),
                f"{layer}.mlp.gate_proj.weight": (inner, hidden),
                f"{layer}.mlp.up_proj.weight": (inner, hidden),
                f"{layer}.post_attention_layernorm.weight": (hidden,),
                f"{layer}.self_attn.k_proj.weight": (key_value, hidden),
                f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
                f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
                f"{layer}.self_attn.v_proj.weight": (key_value, hidden),
            }
        )
    parts.append({"lm_head.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)})
    return parts


def make(folder: Path, *, layers: int, hidden: int, inner: int, vocabulary: int, shards: int) -> dict[str, Any]:
    """Write a checkpoint of a Llama's shape with normal values, in shards of about the same size."""
    folder.mkdir(parents=True)
    parts = shapes(layers, hidden, inner, vocabulary)
    torch.manual_seed(1)
    pool = (torch.randn(1 << 25) * 0.02).to(torch.bfloat16)
    weight_map = {}
    for number in range(shards):
        path = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        tensors = {
            name: shape
            for part in parts[number * len(parts) // shards : (number + 1) * len(parts) // shards]
            for name, shape in part.items()
        }
        header = arrange((name, "BF16", shape) for name, shape in tensors.items())
        with (folder / path).open("wb") as file:
            file.write(encode(header.tensors))
            for at, tensor in enumerate(header.tensors):
                left, shift = tensor.size // 2, (at * 7919) % 10_000
                while left:
                    piece = pool[shift : shift + left]
                    file.write(memoryview(piece.view(torch.uint8).numpy()))
                    left -= piece.numel()
                    shift = 0
                weight_map[tensor.name] = path
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_digests(folder)
    return {"bytes": sum(path.stat().st_size for path in folder.iterdir())}


def ours(
    source: Path,
    target: Path,
    device: str,
    lanes: int,
    scheme: str,
    *,
    piece: int = 0,
    verify: bool = True,
    midstates: bool = True,
) -> dict[str, Any]:
    """What a worker does between the store's bytes and a file: verify, quantize, write, hash twice; and the assembly.

    With several devices, behind commas, the groups go to them in turn, `lanes` at once to each.
    """
    target.mkdir(parents=True)
    started = time.perf_counter()
    verify = verify and (source / DIGESTS).exists()
    files = known(source, midstates=midstates) if verify else FolderFiles(source)
    job = prepare(files, QuantizeParameters(scheme=scheme, ignore=IGNORE), {})
    names = device.split(",")
    at_once = lanes_for(lanes, -(-len(job.groups) // len(names)))
    opened = [open_device(job.recipe.scheme, name, at_once) for name in names]
    opened = [replace(one, piece=piece or one.piece) for one in opened]

    groups = largest_first(job.groups)

    def one(number: int) -> tuple[str, str]:
        group = groups[number]
        written = quantize_group(group, job.files, opened[number % len(opened)], target / group.path)
        return group.path, written.sha256.hex

    with ThreadPoolExecutor(at_once * len(names)) as pool:
        digests = dict(pool.map(one, range(len(groups))))
    (target / "config.json").write_bytes(
        config_json(job.checkpoint, quantization_config(job.recipe.scheme, job.ignore))
    )
    (target / "model.safetensors.index.json").write_bytes(index_json(job.groups))
    seconds = time.perf_counter() - started
    whole = hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()
    return {"seconds": seconds, "lanes": at_once, "digest": whole}


def theirs(source: Path, target: Path, device: str, lanes: int, scheme: str) -> dict[str, Any]:
    from llmcompressor import model_free_ptq
    from loguru import logger  # type: ignore[import-not-found]  # llm-compressor's own logger, made quiet

    logger.remove()
    started = time.perf_counter()
    model_free_ptq(
        str(source), str(target), scheme=scheme, ignore=list(IGNORE), max_workers=max(lanes, 1), device=device
    )
    return {"seconds": time.perf_counter() - started, "lanes": max(lanes, 1)}


def floor(source: Path, target: Path, lanes: int) -> dict[str, Any]:
    """The larger of reading the source and writing as many bytes as the result has, with `lanes` threads."""
    target.mkdir(parents=True)
    shards = sorted(source.glob("*.safetensors"))
    buffers = threading.local()

    def read(path: Path) -> None:
        if not hasattr(buffers, "block"):
            buffers.block = memoryview(bytearray(_BLOCK))
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffers.block):
                pass

    job = prepare(FolderFiles(source), QuantizeParameters(ignore=IGNORE), {})
    block = memoryview(torch.randint(0, 255, (_BLOCK,), dtype=torch.uint8).numpy())

    def write(number: int) -> None:
        left = job.groups[number].output.size
        with (target / job.groups[number].path).open("wb", buffering=0) as file:
            while left:
                left -= file.write(block[:left])

    times = []
    with ThreadPoolExecutor(max(lanes, 1)) as pool:
        for work, items in ((read, shards), (write, range(len(job.groups)))):
            started = time.perf_counter()
            list(pool.map(work, items))
            times.append(time.perf_counter() - started)
    return {"read": times[0], "write": times[1], "seconds": max(times)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["make", "ours", "theirs", "floor"])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lanes", type=int, default=0)
    parser.add_argument("--scheme", default="FP8_DYNAMIC")
    parser.add_argument("--one-pass", action="store_true", help="verify the source without midstates, as before")
    parser.add_argument("--layers", type=int, default=29)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=14336)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--shards", type=int, default=4)
    given = parser.parse_args()
    if given.what == "make":
        sizes = {name: getattr(given, name) for name in ("layers", "hidden", "inner", "vocabulary", "shards")}
        result = make(given.folders[0], **sizes)
    elif given.what == "floor":
        result = floor(given.folders[0], given.folders[1], given.lanes)
    else:
        folders, how = given.folders[:2], (given.device, given.lanes, given.scheme)
        result = (
            theirs(*folders, *how) if given.what == "theirs" else ours(*folders, *how, midstates=not given.one_pass)
        )
    result["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if given.device.startswith("cuda"):
        result["peak_gpu"] = torch.cuda.max_memory_allocated()
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
