"""Runs inside the environment of the quantize step, where torch and llm-compressor are, for tests that run outside it.

Started as `python tests/support/quantize_lab.py`; each line on standard input is a JSON request `{"do": NAME, ...}`, each line on
standard output the JSON answer. Checkpoints are written here by hand (not by the code under test), with their tensors
in a shuffled order.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import compress_module
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.utils import match_quantizable_tensors
from llmcompressor import model_free_ptq
from llmcompressor.entrypoints.model_free.lifecycle import calibrate_weight, initialize_quantized_linear
from safetensors import safe_open

from containers.parameters import QuantizeParameters
from containers.quantize.assemble import config_json, copied_files, index_json, quantization_config
from containers.quantize.checkpoint import FolderFiles
from containers.quantize.devices import open_device
from containers.quantize.group_quantizer import quantize_group
from containers.quantize.preflight import prepare
from containers.quantize.recipe import Recipe
from containers.quantize.schemes import scheme_named

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
IGNORE = ["lm_head", "re:.*embed_tokens.*"]


def attention(layer, hidden, kv, bias=False):
    """`kv` are the rows of keys and values, or of each. A block may be partly filled in the values, which end a layer."""
    keys, values = kv if isinstance(kv, tuple) else (kv, kv)
    shapes = {}
    for name, rows in (("q_proj", hidden), ("k_proj", keys), ("v_proj", values), ("o_proj", hidden)):
        shapes[f"{layer}.self_attn.{name}.weight"] = (rows, hidden)
        if bias and name != "o_proj":
            shapes[f"{layer}.self_attn.{name}.bias"] = (rows,)
    return shapes


def mlp(prefix, hidden, inner, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = names
    return {
        f"{prefix}.{gate}.weight": (inner, hidden),
        f"{prefix}.{up}.weight": (inner, hidden),
        f"{prefix}.{down}.weight": (hidden, inner),
    }


def decoder(layers, hidden, inner, kv, *, vocabulary=97, tied=False, bias=False, block=None):
    """Names and shapes of a Llama-like model; `block(layer, hidden, inner)` replaces the MLP."""
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    for index in range(layers):
        layer = f"model.layers.{index}"
        shapes |= {f"{layer}.input_layernorm.weight": (hidden,), f"{layer}.post_attention_layernorm.weight": (hidden,)}
        shapes |= attention(layer, hidden, kv, bias)
        shapes |= block(layer, hidden, inner) if block else mlp(f"{layer}.mlp", hidden, inner)
    return shapes


def mixtral(layer, hidden, inner):
    moe = f"{layer}.block_sparse_moe"
    shapes = {f"{moe}.gate.weight": (4, hidden)}
    for expert in range(4):
        shapes |= mlp(f"{moe}.experts.{expert}", hidden, inner, ("w1", "w3", "w2"))
    return shapes


def qwen_moe(layer, hidden, inner):
    shapes = {f"{layer}.mlp.gate.weight": (3, hidden), f"{layer}.mlp.shared_expert_gate.weight": (1, hidden)}
    shapes |= mlp(f"{layer}.mlp.shared_expert", hidden, inner)
    for expert in range(3):
        shapes |= mlp(f"{layer}.mlp.experts.{expert}", hidden, inner)
    return shapes


def fused_moe(layer, hidden, inner):
    moe = f"{layer}.mlp"
    return {
        f"{moe}.gate.weight": (3, hidden),
        f"{moe}.experts.gate_up_proj": (3, 2 * inner, hidden),
        f"{moe}.experts.down_proj": (3, hidden, inner),
    }


# name: (shapes, settings of config.json, dtype, shards, ignore entries for llm-compressor beyond the default)
ROUTERS = [r"re:.*\.(gate|router|shared_expert_gate)(\.layer)?$"]
MODELS = {
    "llama": (decoder(2, 128, 256, 128), {"model_type": "llama"}, "BF16", 1, []),
    "llama-tied": (decoder(2, 128, 256, 128, tied=True), {"tie_word_embeddings": True}, "BF16", 1, []),
    "llama-shards": (decoder(5, 128, 384, 128), {"model_type": "llama"}, "BF16", 4, []),
    "qwen2-biases": (decoder(2, 128, 256, 128, tied=True, bias=True), {"model_type": "qwen2"}, "BF16", 2, []),
    "mixtral": (decoder(2, 128, 128, 128, block=mixtral), {"model_type": "mixtral"}, "BF16", 3, ROUTERS),
    "qwen2-moe": (decoder(2, 128, 128, 128, block=qwen_moe), {"model_type": "qwen2_moe"}, "BF16", 2, ROUTERS),
    "fused-moe": (decoder(2, 128, 256, 128, block=fused_moe), {"hidden_size": 128}, "BF16", 2, ROUTERS),
    "odd": (decoder(2, 100, 77, 50, vocabulary=33), {"model_type": "llama"}, "BF16", 2, []),
    "odd-rows": (decoder(2, 128, 384, (128, 72)), {"model_type": "llama"}, "BF16", 2, []),
    "half": (decoder(2, 128, 256, 128), {"model_type": "llama"}, "F16", 1, []),
    "float": (decoder(2, 128, 256, 128), {"model_type": "llama"}, "F32", 1, []),
    "large-blocks": (decoder(1, 2048, 5120, (4480, 4500)), {"model_type": "llama"}, "BF16", 1, []),
    "large-rows": (decoder(1, 2048, 5000, 512), {"model_type": "llama"}, "BF16", 1, []),
}


def write_shard(path: Path, tensors: dict[str, torch.Tensor], order: random.Random) -> None:
    names = list(tensors)
    order.shuffle(names)
    header, end = {}, 0
    for name in names:
        tensor = tensors[name]
        dtype = next(key for key, value in DTYPES.items() if value == tensor.dtype)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def write_model(folder: Path, name: str) -> None:
    shapes, settings, dtype, shards, _ = MODELS[name]
    torch.manual_seed(7)
    order = random.Random(7)
    folder.mkdir(parents=True)
    tensors = {key: (torch.randn(shape) * 0.05).to(DTYPES[dtype]) for key, shape in shapes.items()}
    config = {"architectures": ["Model"], "torch_dtype": dtype, "rms_norm_eps": 1e-05, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    if shards == 1:
        write_shard(folder / "model.safetensors", tensors, order)
        return
    names = list(tensors)
    order.shuffle(names)
    owner = {key: f"model-{at % shards + 1:05d}-of-{shards:05d}.safetensors" for at, key in enumerate(names)}
    for shard in sorted(set(owner.values())):
        write_shard(folder / shard, {key: tensors[key] for key in names if owner[key] == shard}, order)
    weight_map = dict(sorted(owner.items(), reverse=True))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def quantize_folder(source: Path, target: Path, parameters: QuantizeParameters, device: str = "cpu") -> dict:
    """What the step does, from folder to folder; returns the digests that it computed on the way."""
    target.mkdir(parents=True)
    job = prepare(FolderFiles(source), parameters, {})
    opened = open_device(job.recipe.scheme, device, 1)
    digests = {}
    for group in job.groups:
        written = quantize_group(group, job.files, opened, target / group.path)
        digests[group.path] = [written.sha256.hex, written.layer.hex]
    (target / "config.json").write_bytes(
        config_json(job.checkpoint, quantization_config(job.recipe.scheme, job.ignore))
    )
    if job.checkpoint.index:
        (target / job.checkpoint.index).write_bytes(index_json(job.groups))
    for path in copied_files(job.checkpoint):
        shutil.copyfile(source / path, target / path)
    return digests


def load(folder: Path) -> dict[str, tuple]:
    """Every tensor as (file, dtype, shape, digest of its bytes)."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 -- safe_open is no mapping
                tensor = file.get_tensor(name)
                raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                found[name] = (path.name, str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw).hexdigest())
    return found


def do_identity(model: str, scheme: str, folder: str) -> dict:
    """Quantize a model with llm-compressor and with the step, and say in what they differ."""
    top = Path(folder)
    source, theirs, ours = top / "source", top / "theirs", top / "ours"
    write_model(source, model)
    model_free_ptq(str(source), str(theirs), scheme=scheme, ignore=[*IGNORE, *MODELS[model][4]], device="cpu")
    digests = quantize_folder(source, ours, QuantizeParameters(scheme=scheme))
    expected, found = load(theirs), load(ours)
    indexes = [path / "model.safetensors.index.json" for path in (theirs, ours)]
    return {
        "tensors": len(expected),
        "scales": sum(name.endswith("_scale") for name in expected),
        "missing": sorted(expected.keys() ^ found.keys()),
        "different": sorted(name for name in expected if found.get(name) != expected[name]),
        "configs": [json.loads((path / "config.json").read_text()) for path in (theirs, ours)],
        "indexes": [json.loads(path.read_text()) if path.exists() else None for path in indexes],
        "digests": {
            name: [digest, hashlib.sha256((ours / name).read_bytes()).hexdigest()]
            for name, (digest, _) in digests.items()
        },
        "layers": {name: layer for name, (_, layer) in digests.items()},
    }


def do_values(scheme: str, dtype: str, columns: int, data: str) -> dict:
    """Quantize one weight with llm-compressor's functions and with the step's; bytes come and go in base64."""
    raw = torch.frombuffer(bytearray(base64.b64decode(data)), dtype=torch.uint8)
    weight = raw.view(DTYPES[dtype]).view(-1, columns)
    module = initialize_quantized_linear(weight, preset_name_to_scheme(scheme, ["Linear"]), "cpu")
    calibrate_weight(module)
    compress_module(module)
    done = open_device(scheme_named(scheme), "cpu", 1).arithmetic.quantize(raw.clone(), dtype, columns)

    def text(tensor: torch.Tensor) -> str:
        return base64.b64encode(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).decode()

    return {
        "theirs": [text(module.weight), text(module.weight_scale)],
        "ours": [text(done.weight), text(done.scale)],
        "sound": bool(done.sound),
        "smallest_scale": float(module.weight_scale.float().min()),
    }


def do_match(names: list[str], ignore: list[str]) -> dict:
    """Which tensors compressed-tensors would quantize, and which the step would, routers apart."""
    tensors = dict.fromkeys(names, None)
    theirs = [name for _, name in match_quantizable_tensors(tensors, ignore, ["Linear"])]
    recipe = Recipe(scheme_named("FP8_DYNAMIC"), tuple(ignore))
    return {"theirs": theirs, "ours": [name for name in names if recipe.kept(name) is None]}


def main() -> None:
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # llm-compressor's progress bars and logs are no answers
        for line in sys.stdin:
            request = json.loads(line)
            answer = globals()[f"do_{request.pop('do')}"](**request)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
