"""Documents of the OCI image specification 1.1 (descriptor.md, manifest.md, image-index.md, config.md) as frozen values.

What the specification demands is demanded; fields that it does not know are kept, because a base image's own must
survive. Docker's older media types (image manifest version 2, schema 2) are read and never written.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from containers.digest import Digest, canonical_json
from containers.errors import BadInput
from containers.foreign_json import INT64_MAX, LISTING, parse_object
from containers.foreign_values import shown

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_IMAGES: Final = (MANIFEST, DOCKER_MANIFEST)
_INDEXES: Final = (INDEX, DOCKER_LIST)
EMPTY_CONTENT: Final = b"{}"
TAR: Final = "application/vnd.oci.image.layer.v1.tar"
TAR_GZIP: Final = f"{TAR}+gzip"
DOCKER_TAR: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_TAR_GZIP: Final = f"{DOCKER_TAR}.gzip"
REF_NAME: Final = "org.opencontainers.image.ref.name"
EPOCH: Final = "1970-01-01T00:00:00Z"


class Document(BaseModel):
    """A JSON value of the specification. `document()` is its canonical form; None and empty optional parts are left out."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    @classmethod
    def parse(cls, content: bytes, what: str) -> Self:
        """Raises BadInput, naming `what`, for anything that is not such a document."""
        return cls.of(parse_object(content, what), what)

    @classmethod
    def of(cls, value: dict[str, Any], what: str) -> Self:
        """The same for JSON that was parsed already."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = shown(".".join(map(str, first["loc"]))) or "the document"
            raise BadInput(
                f"{what} is not a valid {cls.__name__.lower()}: {where}: {shown(' '.join(first['msg'].split()))}"
            ) from error

    def document(self) -> dict[str, Any]:
        return _lean(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def encode(self) -> bytes:
        """Canonical JSON: the bytes that the document's digest is taken of."""
        return canonical_json(self.document())


class Platform(Document):
    architecture: str
    os: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    @classmethod
    def named(cls, text: str) -> Platform:
        """`linux/amd64`; raises BadInput for anything else than linux on an architecture."""
        system, _, architecture = text.partition("/")
        if system != "linux" or not architecture.isalnum():
            raise BadInput(f"{text!r} is not a platform", remedy="write it as linux/amd64")
        return cls(architecture=architecture, os=system)


class Descriptor(Document):
    media_type: str = Field(alias="mediaType", min_length=1)
    digest: Digest
    size: int = Field(ge=0, le=INT64_MAX)
    annotations: dict[str, str] = {}
    artifact_type: str | None = Field(default=None, alias="artifactType")
    platform: Platform | None = None


class ImageManifest(Document):
    schema_version: Literal[2] = Field(default=2, alias="schemaVersion")
    media_type: str = Field(default=MANIFEST, alias="mediaType")
    artifact_type: str | None = Field(default=None, alias="artifactType")
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that must be there before the manifest may be, each once."""
        unique = {blob.digest: blob for blob in (*self.layers, self.config)}
        return tuple(unique.values())


class Index(Document):
    schema_version: Literal[2] = Field(default=2, alias="schemaVersion")
    media_type: str = Field(default=INDEX, alias="mediaType")
    artifact_type: str | None = Field(default=None, alias="artifactType")
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class RootFs(Document):
    type: Literal["layers"] = "layers"
    diff_ids: tuple[Digest, ...]


class History(Document):
    created: str | None = None
    created_by: str | None = None
    empty_layer: bool | None = None


class RunConfig(Document):
    """How a container of the image is started (config.md, "config"); names are the specification's."""

    user: str | None = Field(default=None, alias="User")
    env: tuple[str, ...] = Field(default=(), alias="Env")
    entrypoint: tuple[str, ...] | None = Field(default=None, alias="Entrypoint")
    cmd: tuple[str, ...] | None = Field(default=None, alias="Cmd")
    working_dir: str | None = Field(default=None, alias="WorkingDir")
    labels: dict[str, str] | None = Field(default=None, alias="Labels")


class ImageConfig(Document):
    created: str | None = None
    architecture: str
    os: str
    config: RunConfig = RunConfig()
    rootfs: RootFs
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        return Platform(architecture=self.architecture, os=self.os)


def parse_manifest(content: bytes, what: str) -> ImageManifest | Index:
    """A manifest or an index, by its shape; raises BadInput for anything else (image manifests version 1 included)."""
    value = parse_object(content, what)
    is_index = "manifests" in value
    # One digest must be one image to every program that reads it (CVE-2021-41190; image specification, "mediaType").
    if is_index and ("layers" in value or "config" in value):
        raise BadInput(
            f"{what} is both an image and an index",
            remedy="programs would read different images from it: push it again",
        )
    if value.get("mediaType") in (_IMAGES if is_index else _INDEXES):
        raise BadInput(
            f"{what} says that it is {'an image' if is_index else 'an index'}, and is {'an index' if is_index else 'none'}",
            remedy="programs would read different images from it: push it again",
        )
    return Index.of(value, what) if is_index else ImageManifest.of(value, what)


def parse_tags(content: bytes, what: str) -> tuple[str, ...]:
    """The tags of a page of a registry's list (distribution specification 1.1, "Listing tags"); raises BadInput."""
    tags = parse_object(content, what, LISTING).get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise BadInput(f"{what} are not a list of tags", remedy="check the registry's address")
    return tuple(tags)


def _lean(value: dict[str, Any]) -> dict[str, Any]:
    """Without optional parts that are empty; required ones (`layers`, `manifests`, `diff_ids`) stay."""
    required = {"layers", "manifests", "diff_ids", "config", "rootfs"}
    lean: dict[str, Any] = {}
    for key, item in value.items():
        inner: Any = item
        if isinstance(item, dict):
            inner = _lean(item)
        elif isinstance(item, list):
            inner = [_lean(one) if isinstance(one, dict) else one for one in item]
        if key in required or inner not in ({}, []):
            lean[key] = inner
    return lean
