"""The tar inside a layer: as it is, or inflated piece by piece, and no further than a layer of its size can plausibly go."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.oci.types import DOCKER_TAR, DOCKER_TAR_GZIP, TAR, TAR_GZIP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containers.oci.types import Descriptor

_GZIP: Final = (TAR_GZIP, DOCKER_TAR_GZIP)
PLAIN: Final = (TAR, DOCKER_TAR)
# Weights shrink by a third and programs to a third; deflate reaches 1:1032 with what says nothing. Small layers may be
# all zeros: nobody is hurt by 64 MiB.
_RATIO: Final = 50
_ALWAYS: Final = 64 << 20
_OUT: Final = 1 << 20  # bytes inflated at once
_IN: Final = 16 << 10  # bytes given at once: zlib copies what follows the end of a member, and there may be many


def largest_inflated(layer: Descriptor) -> int:
    """Most bytes that the tar in a layer may have."""
    return layer.size if layer.media_type in PLAIN else _RATIO * layer.size + _ALWAYS


def inflated(chunks: Iterator[bytes], layer: Descriptor) -> Iterator[bytes]:
    """The tar inside a layer, in pieces of at most 1 MiB where it is compressed.

    Raises BadInput for a compression other than gzip, for what is not whole gzip, and beyond `largest_inflated`.
    """
    if layer.media_type in PLAIN:
        yield from chunks
        return
    if layer.media_type not in _GZIP:
        raise BadInput(
            f"the layer {layer.digest} is of type {layer.media_type}: only plain tar and gzip can be read",
            remedy="push the image again with uncompressed layers",
        )
    left = largest_inflated(layer)
    try:
        for data in _members(piece for chunk in chunks for piece in _pieces(chunk)):
            left -= len(data)
            if left < 0:
                raise BadInput(
                    f"the layer {layer.digest} has {layer.size} bytes and inflates to more than {largest_inflated(layer)}",
                    remedy="no honest layer does that: do not use this image",
                )
            yield data
    except (zlib.error, EOFError) as error:
        raise BadInput(f"the layer {layer.digest} is not valid gzip: {error}") from error


def _pieces(chunk: bytes) -> Iterator[bytes]:
    for start in range(0, len(chunk), _IN):
        yield chunk[start : start + _IN]


def _members(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What gzip members one after the other hold (RFC 1952, 2.2); raises zlib.error, and EOFError when the last is cut off."""
    decompressor = zlib.decompressobj(wbits=31)
    begun = False
    for piece in pieces:
        given = piece
        while given:
            if decompressor.eof:
                decompressor = zlib.decompressobj(wbits=31)
            begun = True
            data = decompressor.decompress(given, _OUT)
            if data:
                yield data
            given = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        while not decompressor.eof and (data := decompressor.decompress(b"", _OUT)):  # what zlib itself still holds
            yield data
    if not begun or not decompressor.eof:
        raise EOFError("it is cut off")
