"""Would the readers of a modelcar accept it: KServe, ilab, ModelPack, registries. Weights are not read for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from containers.checkpoint_files import (
    is_legal,
    is_pickle,
    is_secret,
    never_belongs,
    weight_map,
)
from containers.errors import BadInput
from containers.foreign_json import CONFIGURATION, parse_object
from containers.foreign_values import shown
from containers.git_lfs import POINTER_MAX, is_lfs_pointer
from containers.oci import raw
from containers.oci.access import open_repository, read_manifest
from containers.oci.files import read_model_file
from containers.oci.layer import ROOT
from containers.oci.mounted import tree_of
from containers.oci.prepare import registry_layer_bytes
from containers.oci.referrers import TITLE
from containers.oci.repository import image, images, read_small
from containers.oci.source import INDEX_FILE
from containers.oci.validate import check_image, listed_files
from containers.registry_limits import MOUNTABLE_LAYERS, may_refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from containers.oci.repository import Repository
    from containers.oci.tree import Tree
    from containers.oci.types import ImageConfig, ImageManifest
    from containers.settings import StepSettings

Level = Literal["error", "warning", "ok"]
_BIN: Final = ("bin", "usr/bin", "sbin", "usr/sbin", "usr/local/bin")
_TOOLS: Final = ("sh", "ln", "sleep", "ls")  # KServe's sidecar and init container call them


@dataclass(frozen=True, slots=True)
class Finding:
    """`rule` is stable, for machines; `message` is for people."""

    rule: str
    level: Level
    message: str


def lint(reference: str, settings: StepSettings) -> tuple[Finding, ...]:
    """Every rule's finding, the good ones included, in a fixed order. Raises BadInput when there is nothing to look at."""
    with open_repository(reference, settings) as repository:
        _, manifest = image(repository, str(read_manifest(repository).digest))
        config = read_small(repository, manifest.config)
        if raw.is_raw(manifest):
            return tuple(_raw_rules(repository, manifest))
        try:
            parsed = check_image(manifest, config)
        except BadInput as error:
            return (Finding("consistent", "error", error.message),)
        findings = [Finding("consistent", "ok", "manifest, configuration and annotations agree")]
        limit = registry_layer_bytes(repository.reference, settings)
        findings += _layer_rules(manifest, limit)
        trees, finding = _trees(repository, str(read_manifest(repository).digest), settings.registry.parallel)
        findings.append(finding)
        if trees:
            files = trees[0].models
            findings += _kserve_rules(parsed, _programs(trees[0]))
            findings += _path_rules(list(files), trees[0].twice)
            findings += _annotation_rules(manifest)
            findings += _checkpoint_rules(files, lambda path: read_model_file(repository, manifest, path))
        return tuple(findings)


def _trees(repository: Repository, what: str, parallel: int) -> tuple[list[Tree], Finding]:
    """What is mounted on each platform; none when a layer cannot be read."""
    try:
        trees = [tree_of(repository, manifest, parallel) for _, manifest in images(repository, what)]
    except BadInput as error:
        return [], Finding("tree", "error", error.message)
    faults = [fault.message for tree in trees for fault in tree.faults]
    if not faults:
        return trees, Finding(
            "tree", "ok", f"what container engines mount matches the layers' file lists ({len(trees)} platform(s))"
        )
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return trees, Finding("tree", "error", "; ".join(faults[:3]) + more)


def _programs(tree: Tree) -> set[str]:
    programs = (path.rpartition("/") for path, node in tree.nodes.items() if node.kind in ("file", "link"))
    return {name for folder, _, name in programs if folder in _BIN}


def _layer_rules(manifest: ImageManifest, limit: int) -> list[Finding]:
    count = len(manifest.layers)
    biggest = max((layer.size for layer in manifest.layers), default=0)
    kinds = Counter(layer.media_type for layer in manifest.layers)
    zstd = [kind for kind in kinds if "zstd" in kind]
    squeezed = [kind for kind in kinds if kind.endswith("gzip")]
    size = f"the largest layer has {biggest} bytes"
    if limit:
        large = _judge("layer-size", biggest <= limit, f"{size}; this registry takes {limit}")
    elif too_small := may_refuse(biggest):
        large = Finding("layer-size", "warning", f"{size}: too large for {', '.join(too_small)}")
    else:
        large = Finding("layer-size", "ok", size)
    return [
        _judge(
            "layer-count", count <= MOUNTABLE_LAYERS, f"{count} layers (overlay file systems mount {MOUNTABLE_LAYERS})"
        ),
        large,
        _judge("no-zstd", not zstd, f"layer types: {', '.join(sorted(kinds))} (KServe's oci+fetch refuses zstd)"),
        _judge(
            "uncompressed",
            not squeezed,
            "weights do not compress, and a compressed layer has no fixed digest",
            "warning",
        ),
    ]


def _kserve_rules(config: ImageConfig, programs: set[str]) -> list[Finding]:
    run = config.config
    missing = [tool for tool in _TOOLS if tool not in programs]
    user = (run.user or "").partition(":")[0]
    if missing:
        tools = Finding(
            "tools",
            "error",
            f"{', '.join(missing)} missing: KServe's sidecar cannot start (an image volume can be mounted)",
        )
    else:
        tools = Finding("tools", "ok", f"{', '.join(_TOOLS)} are there")
    return [
        _judge(
            "entrypoint", not run.entrypoint, "KServe passes its command as arguments: there must be no entry point"
        ),
        tools,
        _judge("user", user not in ("", "0", "root"), f"runs as user {user or 'root'}", "warning"),
    ]


def _path_rules(files: Sequence[str], twice: Iterable[str]) -> list[Finding]:
    twice = sorted(twice)
    unsafe = sorted(path for path in set(files) if path.startswith("/") or ".." in path.split("/"))
    nested = sum("/" in path for path in files)
    return [
        _judge("models", bool(files), f"{len(files)} files under /{ROOT}, {nested} in sub-folders"),
        _judge("paths-once", not twice, f"files that another layer overwrites: {', '.join(twice[:5]) or 'none'}"),
        _judge("paths-safe", not unsafe, f"paths that leave /{ROOT}: {', '.join(unsafe[:5]) or 'none'}"),
    ]


def _annotation_rules(manifest: ImageManifest) -> list[Finding]:
    model = [layer for layer in manifest.layers if layer.annotations.get("olot.layer.content.inlayerpath")]
    listed = sum(bool(listed_files(layer)) for layer in manifest.layers)
    titled = [layer for layer in manifest.layers if TITLE in layer.annotations]
    return [
        _judge("annotations", listed > 0 and listed >= len(model), f"{listed} layers list their files", "warning"),
        _judge(
            "ilab-titles",
            not titled,
            f"{len(titled)} tar layers have a title: `ilab model download` would take the tar for the file",
            "warning",
        ),
    ]


def _checkpoint_rules(files: Mapping[str, int], read: Callable[[str], bytes]) -> list[Finding]:
    """`files` are sizes by path, `read` gives a small one."""
    paths = set(files)
    findings: list[Finding] = []
    try:
        parse_object(read("config.json"), "config.json", CONFIGURATION)
        findings.append(_judge("config", True, "config.json is a JSON object"))
    except BadInput as error:
        findings.append(Finding("config", "error", f"config.json cannot be loaded: {error}"))
    if INDEX_FILE in paths:
        try:
            weights = set(weight_map(read(INDEX_FILE), INDEX_FILE).values())
            missing = sorted(weights - paths)
            shards = f"{INDEX_FILE} names {len(weights)} shards, missing: {shown(', '.join(missing[:5])) or 'none'}"
            findings.append(_judge("shards", not missing, shards))
        except BadInput as error:
            findings.append(Finding("shards", "error", f"{INDEX_FILE} cannot be loaded: {error}"))
    else:
        count = sum(path.endswith(".safetensors") for path in paths)
        findings.append(_judge("shards", count > 0, f"{count} safetensors file(s), no index"))
    pointers = sorted(path for path, size in files.items() if size <= POINTER_MAX and _is_pointer(path, read))
    findings.append(
        _judge(
            "no-pointers",
            not pointers,
            f"git-LFS pointers instead of files: {shown(', '.join(pointers[:5])) or 'none'}",
        )
    )
    tokenizer = any(path.rpartition("/")[2].startswith(("tokenizer", "vocab", "spiece")) for path in paths)
    findings.append(_judge("tokenizer", tokenizer, "a tokenizer is there" if tokenizer else "no tokenizer", "warning"))
    legal = sorted(path for path in paths if is_legal(path))
    findings.append(_judge("licence", bool(legal), f"licence files: {', '.join(legal) or 'none'}", "warning"))
    pickles = sorted(path for path in paths if is_pickle(path))
    secrets = sorted(path for path in paths if is_secret(path))
    findings.append(
        _judge("no-secrets", not secrets, f"files that hold logins: {shown(', '.join(secrets[:5])) or 'none'}")
    )
    left = sorted(path for path in paths if never_belongs(path) and path not in secrets)
    findings.append(
        _judge("no-leftovers", not left, f"files of no checkpoint: {shown(', '.join(left[:5])) or 'none'}", "warning")
    )
    findings.append(_judge("no-pickles", not pickles, f"pickles: {', '.join(pickles[:5]) or 'none'}", "warning"))
    return findings


def _is_pointer(path: str, read: Callable[[str], bytes]) -> bool:
    """Whether a file is a pointer; one in a layer that is too large to be looked at is taken for none."""
    try:
        return is_lfs_pointer(read(path))
    except BadInput:
        return False


def _raw_rules(repository: Repository, manifest: ImageManifest) -> list[Finding]:
    untitled = [layer for layer in manifest.layers if not layer.annotations.get(TITLE)]
    pathless = [layer for layer in manifest.layers if not layer.annotations.get(raw.FILEPATH)]
    tars = [layer for layer in manifest.layers if "tar" in layer.media_type.rpartition(".")[2]]
    titles = Counter(layer.annotations.get(TITLE, "") for layer in manifest.layers)
    twice = [title for title, count in titles.items() if count > 1]
    files = {layer.annotations.get(TITLE, ""): layer.size for layer in manifest.layers}
    by_title = {layer.annotations.get(TITLE, ""): layer for layer in manifest.layers}

    def read(path: str) -> bytes:
        if path not in by_title:
            raise BadInput(f"there is no {path}")
        return read_small(repository, by_title[path])

    return [
        _judge(
            "ilab-titles",
            not untitled and not twice,
            f"{len(untitled)} layers without a title, {len(twice)} titles twice",
        ),
        _judge("ilab-raw", not tars, f"{len(tars)} layers are tars: `ilab` links blobs as they are"),
        _judge("modelpack-paths", not pathless, f"{len(pathless)} layers without {raw.FILEPATH}"),
        *_path_rules(list(files), twice),
        *_checkpoint_rules(files, read),
    ]


def _judge(rule: str, good: bool, message: str, otherwise: Level = "error") -> Finding:  # noqa: FBT001
    return Finding(rule, "ok" if good else otherwise, message)
