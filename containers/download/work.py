"""The work of the step: resolve a source, or write a pinned one to the store as a checkpoint."""

from __future__ import annotations

import json
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import CONFIG
from containers.contract import Kind, Step, StepResult
from containers.download.checks import check_small_files, licence
from containers.download.fetch import Fetcher
from containers.download.origin import listing_digest, open_origin
from containers.download.partial import partial_folder
from containers.download.selection import select
from containers.download.transfer import Transfer
from containers.download_feed import FeedWriter
from containers.errors import BadInput
from containers.fingerprints import fingerprint_inputs
from containers.parameters import DownloadOptions, DownloadParameters, ResolvedSource
from containers.sources import BucketSource, FolderSource, HubSource, parse
from containers.store import Manifest, Store

if TYPE_CHECKING:
    from pydantic import JsonValue

    from containers.contract import StepRequest
    from containers.download.origin import FileOrigin
    from containers.download.selection import Selection
    from containers.sources import Source
    from containers.step import Context


_CONFIG_LIMIT: Final = 1 << 20  # bytes; it travels in the result


def work(request: StepRequest, context: Context) -> StepResult:
    """Resolve the source of a checkpoint, or download it."""
    parameters = DownloadParameters.read(request.parameters)
    source = parse(parameters.source)
    if parameters.action == "resolve":
        return StepResult(step=Step.DOWNLOAD, values=resolve(source, context).dump())
    return download(source, request, context)


def resolve(source: Source, context: Context) -> ResolvedSource:
    """Look at the source and say what it names now; refuses what is no checkpoint by the names of its files."""
    origin = open_origin(source, context.settings, context.report.log)
    commit = origin.commit()
    selection = select(origin.files(commit), _name(source))
    _check_pin(source, selection)
    digest = listing_digest(selection.taken)
    if isinstance(source, HubSource):
        assert commit is not None
        pinned: Source = source.at(commit, None if origin.believed else digest)
    else:
        pinned = source.at(digest)
    return ResolvedSource(
        source=str(source),
        pinned=str(pinned),
        revision=(source.revision or "main") if isinstance(source, HubSource) else None,
        commit=commit,
        files=len(selection.taken),
        size=selection.size,
        weights=sum(file.size for file in selection.taken if file.path.endswith(".safetensors")),
        config=_configuration(pinned, selection, context),
    )


def _configuration(pinned: Source, selection: Selection, context: Context) -> dict[str, JsonValue]:
    """The model's config.json, which says how it can be served; empty for what the download will refuse with its reasons."""
    file = next((one for one in selection.taken if one.path == CONFIG), None)
    if file is None or file.size > _CONFIG_LIMIT:
        return {}
    origin = open_origin(pinned, context.settings, context.report.log)
    content = Transfer(origin, context.report.log, threading.Event()).read(file, 0, file.size)
    try:
        read = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def download(source: Source, request: StepRequest, context: Context) -> StepResult:
    """Bring the files of a pinned source into the store.

    Everything that can be told from names, small files and headers is checked before the first blob is stored.
    """
    if not source.pinned:
        raise BadInput(f"{source} can move: it is not pinned", remedy="resolve it first, then download the result")
    origin = open_origin(source, context.settings, context.report.log)
    if isinstance(source, HubSource) and source.listing is None and not origin.believed:
        raise BadInput(
            f"{source} is pinned by its commit alone, and what a mirror of the hub gives for a commit may be anything",
            remedy="resolve it at the mirror first, then download the result",
        )
    options = DownloadOptions.read(request.options)
    store = Store.open(request.store, context.settings.store)
    fingerprint = request.fingerprint(fingerprint_inputs(Step.DOWNLOAD))
    if (done := store.find(Kind.CHECKPOINT, fingerprint)) is not None:
        return _result(source, done, options, {})

    with partial_folder(context.settings.home, fingerprint, context.report) as folder:
        if (done := store.find(Kind.CHECKPOINT, fingerprint)) is not None:  # made by the run that held the folder
            return _result(source, done, options, {})
        selection = _select(source, origin)
        for file, why in selection.skipped:
            context.report.log(f"skipped {file.path} ({why})")
        with FeedWriter(store, fingerprint, enabled=options.announce) as feed:
            fetcher = Fetcher(origin, store, folder, context.report, options.parallel, feed)
            entries, metrics = fetcher.fetch_all(
                selection.taken, check=lambda small: check_small_files(selection, small, _name(source))
            )
        manifest = Manifest(
            kind=Kind.CHECKPOINT,
            fingerprint=fingerprint,
            files=entries,
            metadata=_metadata(source, selection, options, licence(fetcher.small)),
        )
        store.commit(manifest)
        metrics["skipped"] = len(selection.skipped)
        return _result(source, manifest, options, metrics)


def _select(source: Source, origin: FileOrigin) -> Selection:
    commit = source.revision if isinstance(source, HubSource) else None
    selection = select(origin.files(commit), _name(source))
    _check_pin(source, selection)
    return selection


def _check_pin(source: Source, selection: Selection) -> None:
    """It must still be what it was pinned as, where more than a commit pins it."""
    if source.listing is None:
        return
    if listing_digest(selection.taken) != source.listing:
        raise BadInput(f"{_name(source)} has changed since it was resolved", remedy="run again to use the new version")


def _name(source: Source) -> str:
    """The source as messages call it."""
    if isinstance(source, HubSource):
        return str(HubSource(source.repo, source.revision))
    if isinstance(source, FolderSource):
        return str(FolderSource(source.folder))
    return str(BucketSource(source.bucket, source.prefix))


def _metadata(
    source: Source, selection: Selection, options: DownloadOptions, named: str | list[str] | None
) -> dict[str, JsonValue]:
    metadata: dict[str, JsonValue] = {"source": str(source), "skipped": [file.path for file, _ in selection.skipped]}
    if isinstance(source, HubSource):
        metadata |= {"repository": source.repo, "commit": source.revision}
    if options.revision:
        metadata["revision"] = options.revision
    if named is not None:
        metadata["license"] = [*named] if isinstance(named, list) else named
    return metadata


def _result(source: Source, manifest: Manifest, options: DownloadOptions, metrics: dict[str, float]) -> StepResult:
    commit = source.revision if isinstance(source, HubSource) else None
    files, revision = len(manifest.files), options.revision or None
    return StepResult(
        step=Step.DOWNLOAD,
        outputs={"checkpoint": manifest.ref},
        values=ResolvedSource(
            source=str(source), pinned=str(source), revision=revision, commit=commit, files=files, size=manifest.size
        ).dump(),
        metrics={"bytes_read": 0, "bytes_stored": 0, "files": files, **metrics},
        versions={"huggingface-hub": version("huggingface-hub")} if isinstance(source, HubSource) else {},
    )
