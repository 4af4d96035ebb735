"""Pushes a planned modelcar to a repository: checks what it has, sends what is missing, the manifest last."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.checkpoint_files import CheckpointFile
from containers.digest import Digest
from containers.oci import card, image, raw
from containers.oci.layer import CHUNK, Layer, LayerFile
from containers.oci.plan import PlannedLayer, PushPlan
from containers.oci.reference import candidate_tag
from containers.oci.repository import Blob
from containers.oci.sender import Sender
from containers.oci.source import Hashing, files_key
from containers.oci.types import INDEX, MANIFEST, Descriptor
from containers.oci.validate import check_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from containers.oci.push_cache import PushCache
    from containers.oci.repository import Repository
    from containers.streams import OpenStream

_IN_MEMORY: Final = 4 << 20  # bytes of a layer whose digest is not known yet


@dataclass(frozen=True)
class Pushed:
    """What a push did. `digest` is the image's, or the index's when there are several platforms."""

    digest: Digest
    candidate_tag: str
    layers: int
    size: int
    pushed_bytes: int
    already_there: bool
    skipped: tuple[str, ...] = ()
    raw: Digest | None = None


_Sent = tuple[PlannedLayer, Digest, tuple[CheckpointFile, ...]]  # a layer, its digest, its files with theirs


class Push:
    """One push of a plan to a repository. `on_bytes` gets bytes as they are sent, from several threads."""

    def __init__(
        self,
        plan: PushPlan,
        repository: Repository,
        cache: PushCache,
        *,
        parallel: int = 4,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._repository = repository
        self._cache = cache
        self._parallel = parallel
        self._sender = Sender(repository, on_bytes)
        self._raw: Digest | None = None

    def run(self, tag: str = "") -> Pushed:
        """Send what is missing and return the pushed image; `tag` is set besides the candidate tag.

        Nothing is visible under any tag before every byte is there. Raises what the source and the repository raise.
        """
        layers = [one for one in self._plan.layers if one.digest is not None]
        if len(layers) == len(self._plan.layers):
            done = self._already([(one, one.digest, one.files) for one in layers if one.digest is not None], tag)
            if done is not None:
                return done
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="push") as pool:
            bases = [pool.submit(self._sender.put, blob) for base in self._plan.bases for blob in base.blobs]
            # Large layers first: the last one to finish is then a small one.
            ordered = sorted(self._plan.layers, key=lambda one: -one.layer.size)
            futures = {id(one): pool.submit(self._put_layer, one) for one in ordered}
            self._sender.wait([*bases, *futures.values()])
        return self._finish([futures[id(one)].result() for one in self._plan.layers], tag)

    def _already(self, layers: Sequence[_Sent], tag: str) -> Pushed | None:
        """The whole image is there, with every blob: then nothing is sent but a missing tag."""
        images, blobs, content, media_type = self._compose(layers)
        digest = Digest.of(content)
        if self._repository.get(str(digest)) is None or any(
            self._repository.get(str(one.digest)) is None for one in images
        ):
            return None
        wanted = {one.digest: one for built in images for one in built.manifest.blobs}
        with ThreadPoolExecutor(self._parallel) as pool:
            sizes = list(pool.map(lambda one: self._repository.blob_size(one.digest), wanted.values()))
        if any(size != one.size for size, one in zip(sizes, wanted.values(), strict=True)):
            return None
        self._sender.skipped = [blob.name for blob in blobs] + [one.name for one, _, _ in layers]
        changed = self._tag(digest, content, media_type, tag)
        changed |= self._also_raw(layers, digest, content, media_type, tag)
        return self._pushed(digest, already_there=not changed)

    def _tag(self, digest: Digest, content: bytes, media_type: str, tag: str) -> bool:
        changed = False
        for name in filter(None, (candidate_tag(digest), tag)):
            stored = self._repository.get(name)
            if stored is None or stored.digest != digest:
                self._repository.put(content, media_type, name)
                changed = True
        return changed

    def _finish(self, layers: Sequence[_Sent], tag: str) -> Pushed:
        images, blobs, content, media_type = self._compose(layers)
        for blob in blobs:
            self._sender.put(blob)
        for built in images:
            check_image(built.manifest, built.config)
        if media_type == INDEX:
            for built in images:
                self._repository.put(built.content, MANIFEST)
        digest = Digest.of(content)
        changed = self._tag(digest, content, media_type, tag)
        changed |= self._also_raw(layers, digest, content, media_type, tag)
        return self._pushed(digest, already_there=not changed and self._sender.sent == 0)

    def _compose(self, layers: Sequence[_Sent]) -> tuple[list[image.Image], list[Blob], bytes, str]:
        """The images of every platform, the small blobs that they need, and what is tagged: a manifest or an index."""
        model = [image.model_layer(files, digest, one.layer.size) for one, digest, files in layers]
        card_blob = _card_blob(self._plan.card)
        assert card_blob.digest is not None
        model.append(image.card_layer(card_blob.digest, card_blob.size))
        images = [image.compose(base, model, self._plan.annotations) for base in self._plan.bases]
        blobs = [card_blob, *(Blob.of(one.config, "config") for one in images)]
        if len(images) == 1:
            return images, blobs, images[0].content, MANIFEST
        pairs = list(zip(images, (base.config for base in self._plan.bases), strict=True))
        return images, blobs, image.compose_index(pairs, self._plan.annotations), INDEX

    def _pushed(
        self,
        digest: Digest,
        *,
        already_there: bool,
    ) -> Pushed:
        return Pushed(
            digest=digest,
            candidate_tag=candidate_tag(digest),
            layers=self._plan.layer_count,
            size=self._plan.size,
            pushed_bytes=self._sender.sent,
            already_there=already_there,
            skipped=tuple(self._sender.skipped),
            raw=self._raw,
        )

    def _also_raw(self, layers: Sequence[_Sent], digest: Digest, content: bytes, media_type: str, tag: str) -> bool:
        """Write the raw artifact, if it was asked for; whether anything had to be sent for it."""
        if not self._plan.raw:
            return False
        files = [(file, layer) for _, layer, held in layers for file in held]
        subject = Descriptor(media_type=media_type, digest=digest, size=len(content))
        manifest, config = raw.compose(files, self._plan.config, self._plan.annotations, subject)
        encoded = manifest.encode()
        self._raw = Digest.of(encoded)
        before = self._sender.sent
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="raw") as pool:
            blobs = [Blob.of(config, "raw config"), *(self._raw_blob(file) for file, _ in files)]
            self._sender.wait([pool.submit(self._sender.put, blob) for blob in blobs])
        changed = self._sender.sent != before
        if not any(one.digest == self._raw for one in self._repository.referrers(digest)):
            self._repository.refer(encoded, manifest)
            changed = True
        for name in (f"{candidate_tag(digest)}-raw", f"{tag}-raw" if tag else ""):
            stored = self._repository.get(name) if name else None
            if name and (stored is None or stored.digest != self._raw):
                self._repository.put(encoded, MANIFEST, name)
                changed = True
        return changed

    def _raw_blob(self, file: CheckpointFile) -> Blob:
        source = self._plan.source
        return Blob(
            file.size,
            lambda offset: _read(source.open(file.path, offset, checked=file.sha256 is None)),
            file.sha256,
            f"raw {file.path}",
            recheck=lambda: source.recheck(file.path),
        )

    def _put_layer(self, planned: PlannedLayer) -> _Sent:
        hashing = Hashing(self._plan.source, planned.files)
        if planned.digest is not None:
            blob = Blob(
                planned.layer.size,
                lambda offset: planned.layer.chunks(self._open, offset),
                planned.digest,
                planned.name,
                recheck=lambda: self._recheck(planned.files),
            )
        elif planned.layer.size <= _IN_MEMORY:  # read once, and still looked for before it is sent
            blob = Blob.of(b"".join(planned.layer.chunks(hashing.open)), planned.name)
        else:
            blob = Blob(
                planned.layer.size, lambda offset: planned.layer.chunks(hashing.open, offset), name=planned.name
            )
        digest = self._sender.put(blob)
        files = planned.files if planned.digest is not None else hashing.result()
        key = files_key(files)
        if key is not None:
            self._cache.remember_layer(key, digest)
        return planned, digest, files

    def _open(self, file: LayerFile, offset: int) -> OpenStream:
        return self._plan.source.open(file.path, offset, checked=False)

    def _recheck(self, files: Sequence[CheckpointFile]) -> None:
        for file in files:
            self._plan.source.recheck(file.path)


def _read(stream: OpenStream) -> Iterator[bytes]:
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    finally:
        stream.close()


def _card_blob(content: bytes) -> Blob:
    layer = Layer((LayerFile(card.PATH, len(content)),), root="")
    return Blob.of(layer.glue[0] + content + layer.glue[1], "card")
