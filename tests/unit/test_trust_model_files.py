"""The files of a model that a signature is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.digest import Digest
from containers.trust.model_signing import SIGNATURE_FILE, hash_folder, signable

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_signed_of_a_modelcar_is_what_is_compared_where_it_is_served(tmp_path: Path) -> None:
    """A folder that was signed and then pushed has its old signature among its files, and neither side counts it."""
    for name in ("config.json", "model.safetensors", SIGNATURE_FILE, ".gitattributes"):
        (tmp_path / name).write_text(name)
    listed = {path.name: Digest.of(path.read_bytes()) for path in tmp_path.iterdir()}
    assert hash_folder(tmp_path) == signable(listed)
    assert set(signable(listed)) == {"config.json", "model.safetensors"}
