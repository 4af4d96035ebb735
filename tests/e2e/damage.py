"""Damages one layer of the quantized checkpoint in an object store: valid digests, a wrong model.

    python damage.py STORE_FOLDER

The manifest keeps its fingerprint, so that the chain takes it for the answer of the quantize step.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

from containers.contract import Kind, StoreLocation
from containers.oci.layer import LayerHasher
from containers.store import Manifest, Store
from infra.objectstore import EmbeddedStore

LAYER = "model.layers.12.mlp.down_proj.weight"


def damaged(content: bytes) -> bytes:
    """The safetensors file with the rows of one weight in reverse order: every scale belongs to another row."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    start, end = (8 + length + offset for offset in header[LAYER]["data_offsets"])
    rows, columns = header[LAYER]["shape"]
    data = content[start:end]
    turned = b"".join(data[row * columns : (row + 1) * columns] for row in reversed(range(rows)))
    return content[:start] + turned + content[end:]


def main(folder: Path) -> None:
    with EmbeddedStore(folder, folder.parent / "damage.log") as settings:
        store = Store.open(StoreLocation(endpoint=settings.endpoint, bucket=settings.bucket), settings)
        (quantized,) = (
            manifest for manifest in store.manifests(Kind.CHECKPOINT) if "quantization" in manifest.metadata
        )
        files = []
        for file in quantized.files:
            if file.path.endswith(".safetensors"):
                content = damaged(store.read_bytes(file.sha256))
                hasher = LayerHasher(file.path, file.size)
                hasher.update(content)
                layer = hasher.digest() if file.layer else None
                files.append(file.model_copy(update={"sha256": store.put_bytes(content), "layer": layer}))
            else:
                files.append(file)
        store.forget(quantized.ref)  # what stands under a fingerprint stays, unless it is forgotten
        store.commit(
            Manifest(
                kind=quantized.kind,
                fingerprint=quantized.fingerprint,
                files=tuple(files),
                metadata=quantized.metadata,
            )
        )


main(Path(sys.argv[1]))
