"""Which files of a source are parts of a checkpoint, by their names, and why the others are left: safetensors only, no code."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import INDEX_SUFFIX, PICKLE_SUFFIXES, SHARD_SUFFIX, is_hidden, is_legal, never_belongs

if TYPE_CHECKING:
    from collections.abc import Collection

PICKLES: Final = "a pickle"
_WHY: Final = {
    **dict.fromkeys(PICKLE_SUFFIXES, PICKLES),
    **dict.fromkeys((".gguf", ".ggml"), "weights for llama.cpp"),
    **dict.fromkeys((".onnx", ".onnx_data", ".ort"), "weights for ONNX"),
    **dict.fromkeys(
        (".h5", ".keras", ".msgpack", ".tflite", ".ot", ".mlmodel", ".npz"), "weights for another framework"
    ),
    ".py": "code; Carwright runs none that comes with a model",
}
_DATA: Final = frozenset({SHARD_SUFFIX, ".json", ".jinja", ".tiktoken"})
_TOKENIZER_PARTS: Final = frozenset(
    {
        "merges.txt",
        "vocab.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "source.spm",
        "target.spm",
    }
)


def why_left(path: str, names: Collection[str]) -> str | None:
    """Why a file of a source, whose files are `names`, is not taken; None when it is."""
    name = PurePosixPath(path).name
    suffix = PurePosixPath(name.lower()).suffix
    if is_hidden(path):
        return "hidden"
    if never_belongs(path):
        return "a secret, or what a tool has left"
    if is_legal(name) or name == "README.md" or name in _TOKENIZER_PARTS:
        return None
    if name.endswith(".bin.index.json"):
        return "the index of pickles"
    if _second_copy(path, name, names):
        return "a second copy of the weights, in another layout"
    return None if suffix in _DATA else _WHY.get(suffix, "not a part of a checkpoint")


def _second_copy(path: str, name: str, names: Collection[str]) -> bool:
    """Whether this is a vendor's own file beside the same weights in Hugging Face layout (Mistral's repositories)."""
    folder = path.removesuffix(name)
    layout = {f"{folder}model.safetensors", f"{folder}model{INDEX_SUFFIX}"}
    return name.startswith("consolidated") and name.endswith(SHARD_SUFFIX) and any(one in names for one in layout)
