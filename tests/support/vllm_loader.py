"""Loads checkpoints with vLLM's own loader, one after another in one process, and says what came of it.

Runs inside the environment of the serve step: `python tests/support/vllm_loader.py FOLDER...` prints a line of JSON for each.

vLLM's loader checks, when asked, that each of a model's parameters got its value. What it does not check is that the
checkpoint's values were all taken: a quantized weight is silently widened into a layer without scales. So 8-bit numbers are
counted on both sides.

Two things are played. Packages for images that the serve environment leaves out are imported as empty modules. Mixtures of experts have 8-bit kernels on few CPUs; where there is none the class of one is taken all the
same, so the weights are loaded, by the same code, and not turned into the kernel's layout.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import json
import math
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.models.auto import image_processing_auto  # noqa: F401 -- looks at versions once, when it is imported
from transformers.utils import is_torchvision_available
from vllm.config import set_current_vllm_config
from vllm.distributed import destroy_model_parallel, init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.fused_moe import RoutedExperts
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUExpertsFp8
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
from vllm.plugins import load_general_plugins
from vllm.utils.torch_utils import set_default_torch_dtype

ABSENT = ("torchvision", "mistral_common")


class _Anything(type):
    """A class whose every attribute is itself: what is imported from a package that is not there, and never used."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets modules of vLLM be imported that process images, which loading weights does not."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def exec_module(self, module) -> None:
        module.__getattr__ = lambda name: getattr(_Anything("Anything", (), {}), name)


is_torchvision_available()  # before the stand-ins: transformers remembers what there is
sys.meta_path.append(_StandIns())  # asked last: what is installed comes first

KERNEL = CPUExpertsFp8._supports_current_device()
CPUExpertsFp8._supports_current_device = staticmethod(lambda: True)


def narrow(folder: Path) -> int:
    """8-bit numbers in the checkpoint."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 -- safe_open is no mapping
                part = file.get_slice(name)
                count += math.prod(part.get_shape()) if part.get_dtype() in {"F8_E4M3", "I8"} else 0
    return count


def load(folder: Path) -> dict:
    config = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="bfloat16",
        max_model_len=64,
        model_loader_extra_config={"enable_weights_track": True},
    ).create_engine_config()
    with set_current_vllm_config(config):
        if not torch.distributed.is_initialized():
            init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/group", 0, "gloo")
        destroy_model_parallel()  # a mixture of experts has a group more than other models
        initialize_model_parallel(1, 1)
        loader = get_model_loader(config.load_config)
        with set_default_torch_dtype(config.model_config.dtype):
            model = initialize_model(vllm_config=config)
            loader.load_weights(model, config.model_config)
            taken = sum(p.numel() for p in model.parameters() if p.dtype in {torch.float8_e4m3fn, torch.int8})
            stored = narrow(folder)
            if taken != stored:
                raise ValueError(f"the checkpoint has {stored} 8-bit numbers, and vLLM holds {taken}")
            experts = any(isinstance(one, RoutedExperts) for one in model.modules())
            if experts and not KERNEL:
                return {"loaded": "weights", "class": type(model).__name__, "narrow": taken}
            process_weights_after_loading(model, config.model_config, torch.device("cpu"))
    return {"loaded": "whole", "class": type(model).__name__, "narrow": taken}


def main() -> None:
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        load_general_plugins()
        for name in sys.argv[1:]:
            began = time.monotonic()
            try:
                said = load(Path(name))
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is the answer
                traceback.print_exc()
                said = {"failed": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps({"folder": name, **said, "seconds": round(time.monotonic() - began, 1)}) + "\n")
            answers.flush()
            gc.collect()


if __name__ == "__main__":
    main()
