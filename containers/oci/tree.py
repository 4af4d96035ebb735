"""The tree of an image as an engine mounts it, and what in it must not be under /models or on the way there.

Layers are merged as overlay file systems do it (image specification 1.1, layer.md): what a later layer holds counts, a
whiteout `.wh.NAME` takes away what lower layers have under NAME, and `.wh..wh..opq` all that they have in its folder.

Links, devices and programs elsewhere are a base image's own affair. Engines differ in whether a member is written
through a link of the same or of a lower layer, so one that would come to be under /models in either way is a fault.
"""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from containers.errors import BadInput
from containers.oci.layer import ROOT, check_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from containers.digest import Digest

LINKED: Final = "mnt/models"  # where KServe, and we on docker, link /models to: what an image has there would count
_WHITEOUT: Final = ".wh."
_META: Final = ".wh..wh."  # of AUFS; engines pass over them, but for the opaque one
_OPAQUE: Final = ".wh..wh..opq"
_TWICE: Final = "is there twice"
_HOPS: Final = 40  # links on one way, as in Linux
_NODES_MAX: Final = 1 << 20  # files and folders of an image; large bases have 200,000
_STEPS_MAX: Final = 1 << 24  # folders walked through, and nodes looked at for whiteouts, in all: some seconds
_PARTS_MAX: Final = 257  # of a path: `containers.oci.headers` refuses members with more
_READER: Final = (1001, 0)  # user and group that a modelcar is read as, unless everybody may


@dataclass(frozen=True, slots=True)
class ImageFault:
    """Why an image is not a modelcar: the member of a layer, by its name there, and what is wrong with it."""

    layer: Digest | None
    member: str
    what: str

    @property
    def message(self) -> str:
        return (
            f"{self.member!r} in the layer {self.layer} {self.what}" if self.layer else f"{self.member!r} {self.what}"
        )


@dataclass(frozen=True, slots=True)
class Node:
    """What is at a path. `target` is a link's, and `mode` the permission bits."""

    kind: Literal["file", "folder", "link", "other"]
    layer: Digest
    size: int = 0
    mode: int = 0o755
    target: str = ""


@dataclass(frozen=True)
class Tree:
    """Nodes by path, without `/` at either end, the root as ""; and the faults, in the order of the layers."""

    nodes: Mapping[str, Node]
    faults: tuple[ImageFault, ...]

    @property
    def models(self) -> dict[str, int]:
        """The sizes of the files under /models, by their path there."""
        return {
            path.removeprefix(f"{ROOT}/"): node.size
            for path, node in self.nodes.items()
            if path.startswith(f"{ROOT}/") and node.kind == "file"
        }

    @property
    def twice(self) -> tuple[str, ...]:
        """Members that are there more than once."""
        return tuple(fault.member for fault in self.faults if fault.what.startswith(_TWICE))


@dataclass
class Effort:
    """What a tree may still cost: steps through folders and links, and nodes in memory."""

    steps: int = _STEPS_MAX
    nodes: int = _NODES_MAX

    def spend(self, steps: int, nodes: int = 0) -> None:
        """Raises BadInput once the steps are used up, or for more nodes than there may be."""
        self.steps -= steps
        if self.steps < 0 or nodes > self.nodes:
            raise BadInput(
                f"the image holds more than {self.nodes} files and folders, or links and deletions beyond counting",
                remedy="an image for a model has some hundred files: build it again over a smaller base",
            )


def merged_tree(layers: Iterable[tuple[Digest, Sequence[tarfile.TarInfo]]], effort: Effort | None = None) -> Tree:
    """The tree of layers given as their digests and members, the lowest first.

    Raises BadInput for one that would take minutes or gigabytes to find out (more than `effort`).
    """
    lower: dict[str, Node] = {}
    faults: list[ImageFault] = []
    effort = effort or Effort()
    for digest, members in layers:
        one = _OverlayLayer(digest, lower, effort)
        for member in members:
            one.take(member)
        lower = one.merged()
        faults += one.faults
    there = _resolved(LINKED, lower, effort)
    if there in lower and not (_is_model(there) or there == ""):
        faults.append(
            ImageFault(lower[there].layer, there, f"is where /{ROOT} is linked to, and would be served in its place")
        )
    return Tree(lower, tuple(faults))


def model_fault(member: tarfile.TarInfo) -> str:
    """What is wrong with a member by itself, whatever else there is; "" for nothing, and for what is not of the model."""
    path, parts = clean(member.name), member.name.split("/")
    if ".." in parts:
        return "leaves the checkpoint or is not a plain path"
    names = path.split("/")
    whiteout = next((number for number, name in enumerate(names) if name.startswith(_WHITEOUT)), None)
    if whiteout is not None:
        return _whiteout_fault("/".join(names[:whiteout]), names[whiteout])
    if path and not _is_model(path):
        linked = clean(member.linkname) if member.islnk() else ""
        return f"is a hard link to a file of /{ROOT}" if _is_model(linked) else ""
    return next(_plain_faults(member, path), "")


def _plain_faults(member: tarfile.TarInfo, path: str) -> Iterator[str]:
    if member.type not in (tarfile.REGTYPE, tarfile.DIRTYPE):
        yield "is neither a file nor a folder"
    if path in ("", ROOT) and not member.isdir():
        yield "is not a folder"
    if path and member.name.removeprefix("./").removeprefix("/").rstrip("/") != path:
        yield "is not a plain path"
    if any(".xattr." in key and ".xattr.security." not in key for key in member.pax_headers):
        yield "has attributes that an overlay file system may act on"
    if not _readable(member, path):
        yield f"cannot be read by user {_READER[0]} of group {_READER[1]}, as which modelcars are read"
    try:
        check_path(path or ROOT)
    except BadInput as error:
        yield f"is not a name for a file: {error.message}"


def clean(name: str) -> str:
    """A member's name as engines take it: from the root, without empty parts, `.` and `..`."""
    return posixpath.normpath("/" + name.lstrip("/")).lstrip("/")


def _is_model(path: str) -> bool:
    return path == ROOT or path.startswith(f"{ROOT}/")


def _whiteout_fault(folder: str, name: str) -> str:
    hidden = name.removeprefix(_WHITEOUT)
    path = f"{folder}/{hidden}".lstrip("/")
    if _is_model(folder) or _is_model(path) or hidden in ("", ".", "..") or (name == _OPAQUE and not folder):
        return "deletes what lower layers have: not a modelcar"
    return ""


def _readable(member: tarfile.TarInfo, path: str) -> bool:
    needed = 0o4 if not member.isdir() else 0o5 if path else 0o1
    user, group = _READER
    shifts = [0, *([3] if member.gid == group else []), *([6] if member.uid == user else [])]
    return any(member.mode >> shift & needed == needed for shift in shifts)


@dataclass
class _OverlayLayer:
    """One layer over what is below it: its own nodes, and what it takes away."""

    digest: Digest
    lower: Mapping[str, Node]
    effort: Effort
    own: dict[str, Node] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    faults: list[ImageFault] = field(default_factory=list)

    def take(self, member: tarfile.TarInfo) -> None:
        if what := model_fault(member):
            self._fault(member.name, what)
            return
        literal = clean(member.name)
        folder, _, name = literal.rpartition("/")
        if not self._through_links(member, folder, name):
            return
        path = posixpath.join(_resolved(folder, self.own, self.effort), name)
        parts = path.split("/")
        whiteout = next((number for number, part in enumerate(parts) if part.startswith(_WHITEOUT)), None)
        if whiteout is not None:
            self._hide("/".join(parts[:whiteout]), parts[whiteout])
            return
        node = self._node(member)
        before = self.own.get(path)
        if before is not None and (before.kind == "folder") != (node.kind == "folder"):
            self._fault(member.name, f"{_TWICE}, as a folder and as something else")
            return
        if before is not None and node.kind != "folder" and _is_model(path):
            self._fault(member.name, _TWICE)
        for above in _above(path):
            there = self.own.setdefault(above, Node("folder", self.digest))
            if there.kind != "folder":
                self._fault(member.name, f"is below {above!r}, which is not a folder")
                return
        self.own[path] = node
        self.effort.spend(0, len(self.own) + len(self.lower))

    def merged(self) -> dict[str, Node]:
        """The lower tree with this layer over it."""
        hidden = set(self.hidden)
        for path, node in self.own.items():
            below = self.lower.get(path)
            if below is None:
                continue
            if _is_model(path) and not (below.kind == node.kind == "folder"):
                self._fault(path, f"{_TWICE}: it replaces what the layer {below.layer} has")
            if below.kind != node.kind or node.kind != "folder":
                hidden.add(path)
        kept = dict(self.lower)
        if hidden or self.opaque:
            self.effort.spend(len(self.lower) // 2)  # one look costs less than a step through links
            taken = {"": "" in self.opaque}  # by folder: whether all that it held is gone
            for path in self.lower:
                if path in hidden or _is_taken(path.rpartition("/")[0], hidden, self.opaque, taken):
                    del kept[path]
        return kept | self.own

    def _through_links(self, member: tarfile.TarInfo, folder: str, name: str) -> bool:
        """False, and a fault, when the member or what it links to is of the model only through links."""
        ways = [(folder, name, "comes to be in")]
        if name.startswith(_WHITEOUT):
            ways.append((folder, name.removeprefix(_WHITEOUT), "deletes what is in"))
        if member.islnk():
            linked, _, last = clean(member.linkname).rpartition("/")
            ways.append((linked, last, "is a hard link to a file of"))
        for above, last, does in ways:
            for nodes in (self.own, _Over(self.own, self.lower)):
                path = posixpath.join(_resolved(above, nodes, self.effort), last)
                if _is_model(path) and not _is_model(posixpath.join(above, last)):
                    self._fault(member.name, f"{does} /{ROOT} through a link")
                    return False
        return True

    def _hide(self, folder: str, name: str) -> None:
        if name == _OPAQUE:
            self.opaque.add(folder)
        elif not name.startswith(_META):
            self.hidden.add(posixpath.join(folder, name.removeprefix(_WHITEOUT)))

    def _node(self, member: tarfile.TarInfo) -> Node:
        if member.islnk():  # the same file under another name
            linked, _, last = clean(member.linkname).rpartition("/")
            path = posixpath.join(_resolved(linked, self.own, self.effort), last)
            there = self.own.get(path) or self.lower.get(path)
            kind, size, target = (there.kind, there.size, there.target) if there else ("other", 0, "")
            return Node(kind, self.digest, size, (there.mode if there else member.mode) & 0o7777, target)
        if member.issym():
            return Node("link", self.digest, target=member.linkname)
        if member.isdir():
            return Node("folder", self.digest, mode=member.mode & 0o7777)
        return Node("file" if member.isreg() else "other", self.digest, member.size, member.mode & 0o7777)

    def _fault(self, member: str, what: str) -> None:
        self.faults.append(ImageFault(self.digest, member, what))


@dataclass(frozen=True)
class _Over:
    own: Mapping[str, Node]
    lower: Mapping[str, Node]

    def get(self, path: str) -> Node | None:
        return self.own.get(path) or self.lower.get(path)


def _resolved(path: str, nodes: Mapping[str, Node] | _Over, effort: Effort) -> str:
    """The path with every link on it followed, inside the root; where links go in circles, as far as that goes."""
    left = [part for part in reversed(path.split("/")) if part]
    at: list[str] = []
    hops = 0
    effort.spend(len(left))
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del at[-1:]
            continue
        at.append(part)
        node = nodes.get("/".join(at)) if len(at) <= _PARTS_MAX else None
        if node is not None and node.kind == "link" and hops < _HOPS:
            hops += 1
            at = [] if node.target.startswith("/") else at[:-1]
            left += reversed(node.target.split("/"))
            effort.spend(len(left))
    return "/".join(at)


def _is_taken(folder: str, hidden: set[str], opaque: set[str], known: dict[str, bool]) -> bool:
    found = known.get(folder)
    if found is None:
        found = folder in hidden or folder in opaque or _is_taken(folder.rpartition("/")[0], hidden, opaque, known)
        known[folder] = found
    return found


def _above(path: str) -> Iterator[str]:
    """Every folder that a path is in, the root aside."""
    end = path.find("/")
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)
