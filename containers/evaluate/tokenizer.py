"""Extracts the tokenizer files from a checkpoint in the store or a modelcar, without reading weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from containers.errors import BadInput
from containers.oci.access import open_repository, read_manifest
from containers.oci.layer import ROOT, check_path
from containers.oci.repository import image, read_config
from containers.oci.validate import listed_files, read_layer

if TYPE_CHECKING:
    import tarfile
    from pathlib import Path

    from containers.oci.types import Descriptor
    from containers.parameters import EvaluateOptions
    from containers.settings import StepSettings
    from containers.store import Store

_WEIGHTS: Final = (".safetensors", ".gguf")
_LARGEST: Final = 128 << 20  # bytes: a tokenizer of 262,144 words has 35 MB


def materialize(options: EvaluateOptions, store: Store, settings: StepSettings, folder: Path) -> Path | None:
    """Write them into `folder`; None when the options name no source. Raises BadInput for one without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    if options.tokenizer is not None:
        for entry in store.load(options.tokenizer).files:
            if _wanted(entry.path, entry.size):
                _write(folder, entry.path, store.read_bytes(entry.sha256))
    elif options.tokenizer_reference:
        _from_modelcar(options.tokenizer_reference, settings, folder)
    else:
        return None
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise BadInput(f"{options.tokenizer_reference or 'the checkpoint'} has no tokenizer in it")
    return folder


def _from_modelcar(reference: str, settings: StepSettings, folder: Path) -> None:
    def take(member: tarfile.TarInfo, content: Any) -> None:
        path = member.name.removeprefix("./").removeprefix("/")
        if content is not None and path.startswith(f"{ROOT}/") and _wanted(path, member.size):
            _write(folder, path.removeprefix(f"{ROOT}/"), content.read())

    with open_repository(reference, settings) as repository:
        _, manifest = image(repository, str(read_manifest(repository).digest))
        ids = read_config(repository, manifest).rootfs.diff_ids
        for number, layer in enumerate(manifest.layers):
            if _promising(layer):
                read_layer(repository, layer, ids[number] if number < len(ids) else None, take)


def _promising(layer: Descriptor) -> bool:
    """Whether a layer may hold such a file: by its list of files, or, without one, by its size."""
    listed = listed_files(layer)
    return any(_wanted(file.path, file.size) for file in listed) if listed else layer.size <= 2 * _LARGEST


def _wanted(path: str, size: int) -> bool:
    return not path.endswith(_WEIGHTS) and size <= _LARGEST


def _write(folder: Path, path: str, content: bytes) -> None:
    check_path(path)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
