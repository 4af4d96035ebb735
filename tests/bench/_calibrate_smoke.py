"""Calibrate the limits of the smoke suite: the same measures on honest and on damaged FP8_DYNAMIC copies of one model.

    python -m tests.bench._calibrate_smoke CHECKPOINT [--device cuda] > containers/evaluate/calibration/smoke.json

CHECKPOINT is a folder in Hugging Face layout with BF16 weights. Weights are quantized as FP8_DYNAMIC does it (one scale
an output channel, absmax / 448, kept as BF16) and multiplied out again; activations are rounded to E4M3 per token on the
way into each linear layer. That is what vLLM's emulation on a CPU does too, and takes half a second a copy on a GPU where
starting vLLM for each takes a minute; the suite's own test repeats a part of it with vLLM itself.

Needs torch and transformers beside what evaluate needs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from containers import suites
from containers.evaluate import compare
from containers.evaluate.kinds.fidelity import FidelitySuite
from containers.evaluate.measurement import Arrays, Passage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LARGEST: Final = 448.0  # of E4M3
_E4M3: Final = torch.float8_e4m3fn
_MODULES: Final = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
Weights = dict[str, tuple[torch.Tensor, torch.Tensor]]


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """Activations as FP8_DYNAMIC sees them: E4M3 with one scale a token."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-8) / _LARGEST
    return ((x.float() / scale).to(_E4M3).float() * scale).to(x.dtype)


@dataclass
class Bench:
    """A model whose linear layers can be exchanged, and the text that it is measured on."""

    model: Any
    tokens: list[list[int]]
    passages: list[Passage]
    linear: dict[str, Any]
    weights: Weights
    top_k: int

    @classmethod
    def load(cls, checkpoint: str, device: str) -> Bench:
        suite = FidelitySuite.read(suites.read("smoke"))
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        tokens = [tokenizer(text).input_ids for text in suite.passages.values()]
        starts = np.cumsum([0, *(len(ids) for ids in tokens)])
        passages = [
            Passage(path=path, start=int(start), tokens=len(ids))
            for path, start, ids in zip(suite.passages, starts, tokens, strict=False)
        ]
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).to(device)
        linear = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and ".layers." in name
        }
        weights = {}
        for name, module in linear.items():
            scale = (module.weight.data.abs().amax(1, keepdim=True).float() / _LARGEST).to(torch.bfloat16)
            weights[name] = ((module.weight.data.float() / scale.float()).clamp(-_LARGEST, _LARGEST).to(_E4M3), scale)
        return cls(model, tokens, passages, linear, weights, suite.declared.fidelity.top_k)

    def use(self, weights: Weights) -> None:
        for name, module in self.linear.items():
            values, scale = weights[name]
            module.weight.data = (values.float() * scale.float()).to(torch.bfloat16)

    def round_activations(self) -> None:
        for module in self.linear.values():
            module.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0]),))

    def measured(self) -> Arrays:
        parts = []
        for ids in self.tokens:
            given = torch.tensor([ids], device=self.model.device)
            with torch.no_grad():
                logs = torch.log_softmax(self.model(given).logits[0].float(), -1)[:-1]
            values, order = (x.cpu().numpy() for x in logs.topk(self.top_k, -1))
            own = logs.gather(1, given[0, 1:, None])[:, 0].cpu().numpy()
            nothing = np.full((1, self.top_k), np.nan, np.float32)
            parts.append(
                Arrays(
                    np.asarray(ids, np.int32),
                    np.concatenate([nothing[0, :1], own]),
                    np.concatenate([np.full((1, self.top_k), -1, np.int32), order.astype(np.int32)]),
                    np.concatenate([nothing, values]),
                )
            )
        return Arrays.join(parts)


def _scaled(layer: int, factor: float, modules: tuple[str, ...] = _MODULES) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        for module in modules:
            values, scale = weights[f"model.layers.{layer}.{module}"]
            weights[f"model.layers.{layer}.{module}"] = (values, (scale.float() * factor).to(torch.bfloat16))

    return damage


def _shuffled(layer: int, module: str) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        values, scale = weights[f"model.layers.{layer}.{module}"]
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(1)).to(values.device)
        weights[f"model.layers.{layer}.{module}"] = (values.view(torch.uint8)[order].view(_E4M3), scale)

    return damage


def _corrupted(layer: int, share: float) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        rng = np.random.default_rng(2)
        for module in _MODULES:
            values, scale = weights[f"model.layers.{layer}.{module}"]
            raw = values.view(torch.uint8).cpu().numpy().copy()
            random = rng.integers(0, 255, raw.shape, dtype=np.uint8)
            random[(random & 0x7F) == 0x7F] = 0  # NaN is another damage, and found without any limit
            chosen = rng.random(raw.shape) < share
            raw[chosen] = random[chosen]
            changed = torch.from_numpy(raw).to(values.device).view(_E4M3)
            weights[f"model.layers.{layer}.{module}"] = (changed, scale)

    return damage


def _swapped(first: int, second: int) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        for module in _MODULES:
            a, b = f"model.layers.{first}.{module}", f"model.layers.{second}.{module}"
            weights[a], weights[b] = weights[b], weights[a]

    return damage


def _damages(layers: int) -> Iterator[tuple[str, str, Callable[[Weights], None]]]:
    """Kind, name and the damage itself, for a model of so many layers."""
    some = (0, 2 * layers // 5, layers - 1)
    for layer in some:
        for factor in (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0, 0.5):
            yield "scales of a layer", f"layer {layer} times {factor}", _scaled(layer, factor)
        for module in _MODULES:
            yield "scales of a module", f"layer {layer} {module} times 2", _scaled(layer, 2.0, (module,))
            yield "rows shuffled", f"layer {layer} {module}", _shuffled(layer, module)
        for share in (0.0003, 0.001, 0.003, 0.01, 0.1, 1.0):
            yield "bytes corrupted", f"layer {layer} share {share}", _corrupted(layer, share)
    for layer in some[:2]:
        yield "layers swapped", f"layers {layer} and {layer + 1}", _swapped(layer, layer + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    gate = FidelitySuite.read(suites.read("smoke")).declared.gate
    bench = Bench.load(arguments.checkpoint, arguments.device)
    baseline = bench.measured()
    rows: list[dict[str, Any]] = []

    def take(kind: str, name: str) -> compare.PerToken:
        tokens = compare.per_token(baseline, bench.measured(), bench.passages, skip=1)
        found = compare.measures(tokens, block=gate.block, confidence=gate.confidence_each)
        rows.append(
            {
                "kind": kind,
                "name": name,
                "measures": {
                    n: [float(f"{v:.4g}") for v in (e.value, e.lower or 0, e.upper or 0)] for n, e in found.items()
                },
            }
        )
        print(kind, name, {n: round(e.value, 4) for n, e in found.items()}, file=sys.stderr)
        return tokens

    bench.use(bench.weights)
    take("honest", "weights alone")
    bench.round_activations()
    honest = take("honest", "FP8_DYNAMIC")
    for kind, name, damage in _damages(bench.model.config.num_hidden_layers):
        weights = dict(bench.weights)
        damage(weights)
        bench.use(weights)
        take(kind, name)
    json.dump(
        {
            "made_by": "python -m tests.bench._calibrate_smoke",
            "model": bench.model.config.name_or_path,
            "device": torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "cpu",
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "each_measure": ["value", "lower bound", "upper bound"],
            "rows": rows,
            "honest_per_token": {
                "passage": honest.passage.tolist(),
                "kl": honest.kl.round(5).tolist(),
                "agree": honest.agree.astype(int).tolist(),
                "dlogp": honest.dlogp.round(4).tolist(),
            },
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
