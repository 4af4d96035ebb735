"""Writes the build context of a target: a folder with everything the Containerfile reads, and nothing else.

The folder is the complete input. There is no ignore file, because only what a target names is copied.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.labels import LABEL
from containers.oci import minimal
from containers.process import run
from infra.images import debian, inside, rootfs, sbom
from infra.images.locked import Package, packages_of, read_packages, requirements
from infra.images.targets import ROOT, TARGETS, code_files
from infra.images.wheels import Wheelhouse, link

if TYPE_CHECKING:
    from collections.abc import Callable

    from containers.events import Event
    from infra.images.debian import Deb
    from infra.images.sbom import Component
    from infra.images.targets import Target

LABELLED: Final = "labelled"  # the stage that is built
LAID_OUT: Final = "laid-out"  # the named build context
TOOLS: Final = "infra/images/requirements.lock"
_SHELL: Final = "containers/oci/minimal"
DEMO: Final = "infra/demo/requirements.lock"
_INSIDE: Final = Path(inside.__file__).parent
_FILE_MODE: Final = 0o644
_BY_DIGEST: Final = re.compile(r"\S+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Inputs:
    """All inputs of a target's build.

    `base` is a reference by digest, or "" for the base of Debian packages; `vllm` is upstream's image for the target serve.
    `libraries` are those of `packages` that all images for CUDA have alike, in a layer of their own; none for other images.
    `commit` is what the image says that it was made from, if it is known; otherwise git is asked when it is laid out.
    """

    target: Target
    packages: tuple[Package, ...]
    tools: tuple[Package, ...]
    demo: tuple[Package, ...]
    debs: tuple[Deb, ...]
    base_debs: tuple[Deb, ...]
    code: dict[str, Path]
    base: str = ""
    vllm: str = ""
    root: Path = ROOT
    libraries: tuple[Package, ...] = ()
    commit: str = ""

    @property
    def pulled(self) -> list[str]:
        """The images that it is made from, by digest."""
        return [reference for reference in (self.base, self.vllm) if reference]

    @property
    def containerfile(self) -> Path:
        return self.root / "Containerfile"

    @property
    def inside(self) -> list[Path]:
        return sorted(path for path in _INSIDE.iterdir() if path.is_file() and path.name != "__init__.py")

    @property
    def lock_digest(self) -> str:
        """sha256 of the target's locked inputs: Python packages, Debian packages, the base."""
        lines = [requirements([*self.packages, *self.tools, *self.demo])]
        lines += [deb.line for deb in (*self.base_debs, *self.debs)]
        return "sha256:" + hashlib.sha256("".join([*lines, *self.pulled]).encode()).hexdigest()

    @property
    def packages_digest(self) -> str:
        """sha256 of what decides the layer of packages; builders do not look into what a RUN only mounts."""
        digest = hashlib.sha256(self.lock_digest.encode())
        for path in self.inside:
            digest.update(path.read_bytes())
        return "sha256:" + digest.hexdigest()

    @property
    def libraries_digest(self) -> str:
        """sha256 of what decides the layer of libraries; the same for all targets that have it."""
        lines = [requirements([*self.libraries, *self.tools]), *(deb.line for deb in self.base_debs), *self.pulled]
        digest = hashlib.sha256("".join(lines).encode())
        for path in self.inside:
            digest.update(path.read_bytes())
        return "sha256:" + digest.hexdigest()

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments that every builder needs; given also where they are the default: buildah 1.28 skips a stage that only a
        default names.
        """
        return {
            "BASE": self.base or "made",
            "VLLM": self.vllm or "made",
            "BENEATH": "libraries" if self.libraries else "base",
            "LIBRARIES": self.libraries_digest,
            "PACKAGES": self.packages_digest,
        }

    @property
    def digest(self) -> str:
        """sha256 over all inputs: two builds with the same digest give the same image."""
        files = {f"code/{name}": path for name, path in self.code.items()}
        files |= {f"inside/{path.name}": path for path in self.inside}
        files |= {"Containerfile": self.containerfile, "rootfs": Path(rootfs.__file__)}
        if self.demo:
            files["make.py"] = self.root / "infra/demo/make.py"
        listed = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}
        listed[sbom.FILE] = hashlib.sha256(self.sbom()).hexdigest()
        if not self.target.python:
            listed["layer.tar"] = hashlib.sha256(_modelcar_layer()).hexdigest()
        text = json.dumps([self.target.name, self.lock_digest, listed], sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def components(self, status: str = "") -> list[Component]:
        """What is installed in the image; `status` is dpkg's record of a base that is not made here."""
        return sbom.components(self.packages, self.all_debs, status)

    def sbom(self, status: str = "") -> bytes:
        """The image's bill of materials. What upstream's image holds is not known, nor a base without its record."""
        complete = not self.vllm and (not self.base or bool(status))
        return sbom.write(self.target, self.components(status), self.pulled, complete=complete)

    @property
    def python(self) -> tuple[Package, ...]:
        """All Python packages that the build needs, those of its tools included."""
        return (*self.packages, *self.tools, *self.demo)

    @property
    def all_debs(self) -> tuple[Deb, ...]:
        return (*self.base_debs, *self.debs)


def inputs_of(target: Target, *, base: str = "", vllm: str = "", root: Path = ROOT) -> Inputs:
    """Read the target's locks and list its code. Raises BadInput when a lock is missing or out of date with its source."""
    if not (root / "Containerfile").is_file():
        raise BadInput(f"there is no Containerfile in {root}", remedy="images are built from a checkout of Carwright")
    for reference in (base, vllm):
        if reference and not _BY_DIGEST.fullmatch(reference):
            raise BadInput(f"{reference} has no digest", remedy="write REFERENCE@sha256:...")
    if target.upstream and not vllm:
        raise BadInput(
            f"the image {target.name} is built from upstream's vLLM image, and none is given",
            remedy="--vllm REFERENCE@sha256:... (docker.io/vllm/vllm-openai for NVIDIA, docker.io/rocm/vllm for ROCm)",
        )

    def read(name: str) -> tuple[Package, ...]:
        return tuple(read_packages((root / name).read_text(), name))

    debian_base = target.python and not base
    packages = tuple(packages_of(target, root))
    return Inputs(
        target=target,
        packages=packages,
        libraries=_libraries(target, packages, root),
        tools=read(TOOLS) if target.python else (),
        demo=read(DEMO) if target.demo else (),
        debs=tuple(debian.section(target.name)) if target.name != "base" else (),
        base_debs=tuple(debian.section("base")) if debian_base else (),
        code=code_files(target, root),
        base=base,
        vllm=vllm if target.upstream else "",
        root=root,
    )


def _libraries(target: Target, packages: tuple[Package, ...], root: Path) -> tuple[Package, ...]:
    """Those of a target for CUDA that the locks of all of these pin alike; none for other targets."""
    if not target.cuda:
        return ()
    alike = set.intersection(*(set(packages_of(one, root)) for one in TARGETS if one.cuda))
    return tuple(package for package in packages if package in alike)


def labels(inputs: Inputs, source: str) -> dict[str, str]:
    """The labels of the image, besides those in the Containerfile."""
    return {
        "org.opencontainers.image.description": inputs.target.about,
        "org.opencontainers.image.revision": inputs.commit or revision(inputs),
        "org.opencontainers.image.source": source,
        "org.opencontainers.image.title": f"carwright/{inputs.target.name}",
        f"{LABEL}base": inputs.vllm or inputs.base or ("Debian packages" if inputs.base_debs else "none"),
        f"{LABEL}inputs": inputs.digest,
        f"{LABEL}lock": inputs.lock_digest,
    }


def revision(inputs: Inputs) -> str:
    """The last commit that changed what the image is made from; with "-modified" when the checkout differs from it.

    "unknown" outside of a git checkout.
    """
    paths = [
        *inputs.target.code,
        "Containerfile",
        "infra/images",
        *([] if inputs.target.python else [_SHELL]),
        *([inputs.target.lock] if inputs.target.lock else []),
    ]
    git = ["git", "-C", str(inputs.root)]
    found = run([*git, "log", "-1", "--format=%H", "--", *paths], check=False)
    if found.code != 0 or not found.stdout.strip():
        return "unknown"
    changed = run([*git, "status", "--porcelain", "--", *paths], check=False).stdout.strip()
    return found.stdout.strip() + ("-modified" if changed else "")


def lay_out(
    inputs: Inputs,
    folder: Path,
    cache: Path,
    wheelhouse: Wheelhouse,
    on_event: Callable[[Event], None],
    *,
    source: str,
    fresh: bool = False,
) -> None:
    """Fill an empty folder; `cache` is the images' part of the cache, `source` a label, `fresh` makes the base anew.

    The Containerfile gets one more stage at its end, `labelled`: the target with its labels. The folder is the build's
    context and its named context `laid-out`, too.

    Raises BadInput when a package was not fetched or is not the one that was locked.
    """
    stage = f"\nFROM {inputs.target.name} AS {LABELLED}\n"
    stage += "".join(f"LABEL {key}={json.dumps(value)}\n" for key, value in labels(inputs, source).items())
    _write(folder / "Containerfile", inputs.containerfile.read_bytes() + stage.encode())
    lay_out_inputs(inputs, folder / "inputs", cache, wheelhouse)
    if inputs.target.python:
        _put_base(inputs, folder / "inputs" / "base.tar", cache, on_event, fresh=fresh)


def lay_out_inputs(
    inputs: Inputs, folder: Path, cache: Path, wheelhouse: Wheelhouse, *, key: str = "", status: str = ""
) -> None:
    """Fill a folder with all that the stages of the target read, except for the base; `key` is for inside/prepare.py, and
    `status` dpkg's record of a base that is not made here.
    """
    files = wheelhouse.files(inputs.python)
    if absent := [package for package in inputs.python if package not in files]:
        raise _not_fetched(len(absent), inputs.target.name)
    if lacking := debian.missing(inputs.all_debs, cache / "debs"):
        raise _not_fetched(len(lacking), inputs.target.name)

    for path in inputs.inside:
        _write(folder / "inside" / path.name, path.read_bytes())
    (folder / "inside" / "carwright").chmod(0o755)
    _write(folder / "key", key.encode())
    _write(folder / sbom.FILE, inputs.sbom(status))
    for name, path in inputs.code.items():
        _write(folder / "code" / name, path.read_bytes())
    (folder / "code").mkdir(exist_ok=True)
    if not inputs.target.python:
        _write(folder / "layer.tar", _modelcar_layer())
        return
    own = tuple(package for package in inputs.packages if package not in inputs.libraries)
    parts = [(folder, own), *([(folder / "libraries", inputs.libraries)] if inputs.libraries else [])]
    for part, packages in parts:
        _write(part / "requirements.lock", requirements(packages).encode())
        link([files[package] for package in (*packages, *inputs.tools)], part / "wheels")
    link([debian.path_of(deb, cache / "debs") for deb in inputs.debs], folder / "debs")
    if inputs.demo:
        _write(folder / "demo" / "requirements.lock", requirements(inputs.demo).encode())
        _write(folder / "demo" / "make.py", (inputs.root / "infra/demo/make.py").read_bytes())
        link([files[package] for package in inputs.demo], folder / "demo" / "wheels")


def _put_base(inputs: Inputs, base: Path, cache: Path, on_event: Callable[[Event], None], *, fresh: bool) -> None:
    if inputs.base:
        base.touch()  # a stage that is not used still names it
        return
    if fresh:
        rootfs.make_base(inputs.base_debs, cache / "debs", base, on_event)
        return
    made = cache / "bases" / f"{rootfs.base_key(inputs.base_debs)}.tar"
    if not made.is_file():
        rootfs.make_base(inputs.base_debs, cache / "debs", made, on_event)
    link([made], base.parent, base.name)


def _modelcar_layer() -> bytes:
    """The same layer that `carwright push` puts under a model."""
    return minimal.base_layer(debian.ARCHITECTURE)


def _not_fetched(number: int, name: str) -> BadInput:
    return BadInput(
        f"{number} package(s) of the image {name} are not in the wheelhouse", remedy="run `carwright images fetch`"
    )


def _write(path: Path, content: bytes) -> None:
    """With the same modes on every machine, whatever the checkout's or the umask."""
    for folder in [*reversed(path.parents)]:
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    path.write_bytes(content)
    path.chmod(_FILE_MODE)
