"""What can be told of a shipment without a server: names, folders and lists, looked at before anything is started.

The steps check all of this again where it is used, and what only a hub, a store or a registry knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers import sources, suites
from containers.checkpoint_files import CONFIG, never_belongs
from containers.errors import BadInput
from containers.folder_files import SourceFolder
from containers.foreign_json import CONFIGURATION, parse_object, read_at_most
from containers.git_lfs import POINTER_MAX, is_lfs_pointer, lfs_pointer
from containers.oci.reference import Reference
from containers.scheme_names import check_scheme
from containers.sources import FolderSource
from containers.web.origins import Origin

if TYPE_CHECKING:
    from pathlib import Path

    from flows.ship_request import ShipRequest


def check_request(request: ShipRequest) -> None:
    """Raises BadInput for the first thing that no run could do anything with."""
    check_scheme(request.scheme)
    suites.read(request.suite)
    if request.to:
        Reference.parse(request.to)
    for url in filter(None, (request.baseline_endpoint, request.candidate_endpoint)):
        _check_endpoint(url)
    if request.model:
        check_source(request.model)


def check_source(model: str) -> None:
    """Raises BadInput for what names no source, and for a folder without a checkpoint."""
    source = sources.parse(model)
    if isinstance(source, FolderSource):
        _check_folder(source.folder)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", remedy="check the path after file://")
    files = SourceFolder(folder)
    sizes = {file.path: file.state.st_size for file in files.files(never_belongs)}
    weights = [path for path in sizes if path.endswith(".safetensors")]
    if not weights or CONFIG not in sizes:
        raise BadInput(
            f"{folder} has no {'safetensors files' if not weights else CONFIG}",
            remedy="give a checkpoint in Hugging Face layout: config.json, tokenizer and weights (safetensors) in one folder",
        )
    for path in weights:
        if sizes[path] <= POINTER_MAX:
            with files.open(path) as file:
                if is_lfs_pointer(file.read(POINTER_MAX)):
                    raise lfs_pointer(f"{folder}/{path}")
    with files.open(CONFIG) as file:
        parse_object(read_at_most(CONFIGURATION, file.read), f"{folder}/{CONFIG}", CONFIGURATION)


def _check_endpoint(url: str) -> None:
    try:
        Origin.of(url.partition("#")[0])
    except BadInput as error:
        raise BadInput(
            f"not an endpoint: {error.message}", remedy="give the base URL, such as http://HOST:8000/v1"
        ) from error
