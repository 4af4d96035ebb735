"""What a deployment has to know of a model: read from config.json and sizes, of an image or of a folder.

Names are those of Hugging Face's `config.json`; of a multimodal model the text part (`text_config`) counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from containers.checkpoint_files import CONFIG
from containers.contract import Frozen
from containers.errors import BadInput
from containers.folder_files import SourceFolder
from containers.foreign_json import CONFIGURATION, TENSORS, parse_object, read_at_most
from containers.foreign_values import shown, visible_line
from containers.oci.access import open_repository, read_manifest
from containers.oci.files import Weights, read_model_file, weights
from containers.oci.mounted import check_images
from containers.oci.raw import is_raw
from containers.oci.repository import image
from containers.oci.source import INDEX_FILE
from flows.targets.decoder_config import DecoderConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from containers.oci.reference import Reference
    from infra.settings import Settings

_ARCHITECTURES: Final = 16
_DTYPES: Final = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
# State-space and linear-attention layers keep a state per sequence instead of keys and values per token.
_NO_KEYS: Final = ("linear_attention", "mamba", "mamba2", "recurrent", "conv")
_GATED: Final = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "smollm3")


class ModelFacts(Frozen):
    """Sizes of one model. `weights` is in bytes and `weights_from` says where the figure is from.

    `latent` is the width of MLA's compressed keys and values (`kv_lora_rank + qk_rope_head_dim`), 0 without MLA;
    `value_bytes` is what one number of the KV cache takes; `window` is the sliding window in tokens, 0 for none.
    """

    architecture: str
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    longest: int = Field(default=0, description="max_position_embeddings; 0 when the configuration has none")
    latent: int = 0
    window: int = 0
    value_bytes: int = 2
    quantization: str = ""
    weights: int = Field(gt=0)
    weights_from: str
    notes: tuple[str, ...] = ()
    raw: bool = Field(default=False, description="read from a raw artifact, which is not an image")


def of_reference(reference: str, settings: Settings) -> tuple[ModelFacts, Reference]:
    """Of a modelcar or a raw artifact, with its reference pinned by digest. Weights are not read.

    Raises BadInput when there is nothing under the name, when an engine would not mount what its layers say, when there
    are no weights in it, or when its config.json lacks what sizing needs.
    """
    with open_repository(reference, settings) as repository:
        digest = read_manifest(repository).digest
        tree = check_images(repository, str(digest), settings.registry.parallel)
        _, manifest = image(repository, str(digest))
        content = read_model_file(repository, manifest, CONFIG)
        size = weights(manifest)
        if not size.exact:  # another tool's layers: what is in them was looked at just now
            size = Weights(sum(one for path, one in tree.models.items() if path.endswith(".safetensors")), exact=False)
        if not size.size:
            raise BadInput(
                f"{reference} holds no .safetensors files, so the size of the weights is not known",
                remedy="push a checkpoint with safetensors; `carwright push` makes a modelcar of one",
            )
        pinned = repository.reference.at(digest)
    raw = is_raw(manifest)
    kind = "raw files" if raw else "layers"
    source = f"the {kind} of the image" if size.exact else "the files in the layers, which do not list them"
    read = facts(_configuration(content, reference), size.size, source)
    return read.model_copy(update={"raw": raw}), pinned


def read_config(reference: str, settings: Settings) -> tuple[dict[str, Any], int]:
    """The config.json of a modelcar, and the bytes of its weights, 0 where its manifest does not tell them."""
    with open_repository(reference, settings) as repository:
        _, manifest = image(repository, str(read_manifest(repository).digest))
        return _configuration(read_model_file(repository, manifest, CONFIG), reference), weights(manifest).size


def of_folder(folder: Path) -> ModelFacts:
    """Of a checkpoint, or of a folder with nothing but its config.json: the size is then computed from the shapes."""
    files = SourceFolder(folder)
    config = config_of(folder)
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if weights:
        return facts(config, sum(files.state(name).st_size for name in weights), "the files in the folder")
    if (folder / INDEX_FILE).exists():
        with files.open(INDEX_FILE) as file:
            index = parse_object(read_at_most(TENSORS, file.read), str(folder / INDEX_FILE), TENSORS)
        metadata = index.get("metadata")
        total = metadata.get("total_size") if isinstance(metadata, dict) else None
        if isinstance(total, int | float) and total >= 1:
            return facts(config, int(total), f"{INDEX_FILE}")
    return facts(config, _computed_weights(config), "the shapes in config.json")


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json of a checkpoint's folder; raises BadInput when there is none that can be read."""
    with SourceFolder(folder).open(CONFIG) as file:
        return _configuration(read_at_most(CONFIGURATION, file.read), str(folder))


def facts(config: Mapping[str, Any], size: int, source: str) -> ModelFacts:
    """The typed view; raises BadInput, which names the field, for a model whose memory cannot be told from it."""
    decoder = DecoderConfig(config)
    text = decoder.text
    if config.get("is_encoder_decoder"):
        raise BadInput("an encoder-decoder model cannot be sized", remedy="give --tensor-parallel-size yourself")
    layer_types = text.get("layer_types")
    kinds = layer_types if isinstance(layer_types, list) else []
    if odd := [kind for kind in _NO_KEYS if kind in kinds]:
        raise BadInput(
            f"{', '.join(odd)} layers keep a state that is not known here, so the KV cache cannot be sized",
            remedy="measure the model with vLLM on one GPU; it prints how many tokens its cache holds",
        )
    heads = decoder.number("num_attention_heads")
    latent = decoder.count("kv_lora_rank")
    window = decoder.count("sliding_window") if text.get("use_sliding_window", True) else 0
    told = config.get("quantization_config")
    quantization: Mapping[str, Any] = told if isinstance(told, dict) else {}
    notes = []
    if window:
        notes.append(f"sliding window of {window} tokens: not counted, the KV cache needs at most what is said here")
    if text is not config:
        notes.append("multimodal: memory for images or audio is not counted")
    hidden = decoder.number("hidden_size")
    if heads > hidden:
        raise BadInput(
            f"config.json has {heads} heads and a hidden_size of {hidden}", remedy="the configuration is wrong"
        )
    return ModelFacts(
        architecture=architecture_of(config),
        layers=decoder.number("num_hidden_layers"),
        hidden=hidden,
        intermediate=decoder.intermediate,
        heads=heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.count("head_dim") or hidden // heads,
        vocabulary=decoder.number("vocab_size"),
        longest=decoder.count("max_position_embeddings"),
        latent=latent + decoder.count("qk_rope_head_dim") if latent else 0,
        window=window,
        value_bytes=_value_bytes(text, config, quantization),
        quantization=visible_line(quantization.get("format") or quantization.get("quant_method") or ""),
        weights=size,
        weights_from=source,
        notes=tuple(notes),
    )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The names of its architectures in one line, or else its type."""
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    return visible_line(", ".join(str(one) for one in named[:_ARCHITECTURES]) or config.get("model_type", "unknown"))


def _value_bytes(text: Mapping[str, Any], config: Mapping[str, Any], quantization: Mapping[str, Any]) -> int:
    """What vLLM's `--kv-cache-dtype auto` takes: the model's own type, or 8 bits where the checkpoint has scales for it."""
    scheme = quantization.get("kv_cache_scheme")
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return 1
    name = str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "")
    return 2 if name == "float32" else _DTYPES.get(name, 2)  # vLLM serves float32 checkpoints as 16 bits


def _computed_weights(config: Mapping[str, Any]) -> int:
    """Bytes of a dense decoder with gated MLPs, from its shapes: 1 byte a quantized weight and 2 any other.

    Embeddings and the head stay at 2 bytes, and each quantized output channel has a 2-byte scale, as FP8_DYNAMIC has it.
    """
    decoder = DecoderConfig(config)
    if decoder.kind not in _GATED:
        raise BadInput(
            f"there are no weights in the folder, and the size of a {shown(decoder.kind) or 'model'!r} is not computed from its shapes",
            remedy=f"put {INDEX_FILE} or the weights beside config.json",
        )
    hidden, heads = decoder.number("hidden_size"), decoder.number("num_attention_heads")
    inner, layers = decoder.number("intermediate_size"), decoder.number("num_hidden_layers")
    head_dim = decoder.count("head_dim") or hidden // heads
    kv = decoder.kv_heads * head_dim
    channels = heads * head_dim + 2 * kv + hidden + 2 * inner + hidden
    linear = hidden * (heads * head_dim + 2 * kv) + heads * head_dim * hidden + 3 * hidden * inner
    each = linear + 2 * channels if config.get("quantization_config") else 2 * linear
    embeddings = decoder.number("vocab_size") * hidden * (1 if decoder.text.get("tie_word_embeddings") else 2)
    return layers * (each + 2 * 2 * hidden) + 2 * (embeddings + hidden)


def _configuration(content: bytes, where: str) -> dict[str, Any]:
    return parse_object(content, f"{where}: {CONFIG}", CONFIGURATION)
