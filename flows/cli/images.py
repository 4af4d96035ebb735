"""`carwright images`: lock, fetch, build, verify, load and weigh the container images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from containers.errors import BadInput, Error
from containers.events import Event, amount
from flows.cli import terminal
from flows.cli.options import Json, Output  # noqa: TC001 -- typer reads the annotation
from infra.images.builders import Builder
from infra.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.images.buildah import Built
    from infra.images.engine_builder import EngineBuilder
    from infra.images.image_builder import ImageBuilder
    from infra.images.targets import Target

app = typer.Typer(
    name="images", help="Build the container images from locks; where buildah is, bit-identical every time."
)

Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TARGET]...", help="Images by name. Default: all except those for GPUs.", show_default=False
    ),
]
Base = Annotated[
    str,
    typer.Option(
        help="Base image by digest; it must have Python 3.11.", show_default="made from the locked Debian packages"
    ),
]
BuilderOption = Annotated[
    Builder,
    typer.Option(
        "--builder",
        help="hermetic: buildah, bit-identical. docker, podman: with the network. auto: the first that is here.",
    ),
]
Vllm = Annotated[str, typer.Option(help="Upstream's vLLM image by digest; the image serve is built from it.")]
Source = Annotated[str, typer.Option(help="URL of the source code, for the image's label.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show every build instruction.")]


def _targets(names: list[str] | None) -> list[Target]:
    from infra.images.targets import find

    return find(names or [])


@app.command()
def lock(
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Upgrade Python packages within the requirements.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Show newer packages in Debian's archive; change nothing.")
    ] = False,
) -> None:
    """Lock the inputs of the images: Python packages with hashes, Debian packages with versions and hashes."""
    import tempfile

    from infra import lock as python
    from infra.images import debian

    with terminal.display() as show, tempfile.TemporaryDirectory(prefix="carwright-lock-") as scratch:
        target = Path(scratch, "base.lock") if check else debian.LOCK
        if check:
            shutil.copyfile(debian.LOCK, target)
        changes = debian.update_lock(lambda event: show("base", event), lock=target)
        for name, (old, new) in changes.items():
            terminal.out.print(f"base: {name} {old or '(absent)'} -> {new or '(absent)'}")
        if check:
            if changes:
                raise BadInput(
                    f"Debian's archive has {len(changes)} other package(s) than base.lock",
                    remedy="carwright images lock",
                )
            terminal.out.print("base: Debian's archive has nothing else")
            return
        for one in python.locks():
            name = one.folder.relative_to(python.ROOT).as_posix()
            show("lock", Event(event="log", message=name))
            for package, (old, new) in python.make(one, upgrade=upgrade).items():
                terminal.out.print(f"{name}: {package} {old or '(absent)'} -> {new or '(absent)'}")


@app.command()
def audit(
    osv: Annotated[
        Path, typer.Argument(help="OSV data for PyPI: a record, a folder of them, or osv.dev's all.zip.", metavar="OSV")
    ],
    targets: Targets = None,
    json_: Json = False,
) -> None:
    """Say which locked Python packages have known vulnerabilities, by data that you give; exits with 2 if any has.

    Nothing is fetched. Debian's packages are not looked at: debsecan knows what Debian has fixed.
    """
    from infra.images.audit import audit as look

    found = look(_targets(targets), osv)
    if json_:
        print(json.dumps([one.model_dump(mode="json") for one in found], indent=2))
    for one in found if not json_ else ():
        names = ", ".join((one.id, *one.aliases))
        fixed = f"; fixed in {', '.join(one.fixed)}" if one.fixed else ""
        terminal.line(f"{one.package} {one.version}: {names}: {one.summary}{fixed} (in {', '.join(one.images)})")
    if found:
        raise BadInput(
            f"{len(found)} known vulnerabilities in the locked packages",
            remedy="lock newer versions (`make lock LOCK=--upgrade`), or judge them and go on",
        )
    if not json_:
        terminal.line("none of the locked packages has a vulnerability that the data knows")


@app.command()
def sbom(
    target: Annotated[str, typer.Argument(help="Image by name.")],
    output: Output = None,
    base: Base = "",
    vllm: Vllm = "",
) -> None:
    """Print an image's bill of materials (CycloneDX 1.7), from its locks; the image holds the same file."""
    from infra.images.context import inputs_of

    (one,) = _targets([target])
    content = inputs_of(one, base=base, vllm=vllm).sbom()
    if output is None:
        print(content.decode(), end="")
    else:
        output.write_bytes(content)
        terminal.line(str(output))


@app.command()
def fetch(targets: Targets = None, base: Base = "", vllm: Vllm = "", verbose: Verbose = False) -> None:
    """Fetch all inputs of the images into the cache and check each file against its lock."""
    from infra.images.image_builder import ImageBuilder

    with terminal.display(verbose=verbose) as show:
        came = ImageBuilder(Settings(), show, base=base, vllm=vllm).fetch(_targets(targets))
    terminal.out.print(f"{came} file(s) fetched, all as locked")


@app.command()
def build(  # noqa: PLR0917 - typer makes options of them
    targets: Targets = None,
    base: Base = "",
    vllm: Vllm = "",
    source: Source = "carwright",
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch nothing; use what `fetch` left in the cache.")
    ] = False,
    builder: BuilderOption = Builder.AUTO,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Build images. An image with unchanged inputs is not built again."""
    from infra.images.image_builder import ImageBuilder

    documents: dict[str, object] = {}
    with terminal.display(verbose=verbose) as show:
        shop = _builder(builder, show, base, vllm, source)
        if isinstance(shop, ImageBuilder):
            shop.need_room(_targets(targets))
        for target in _targets(targets) if isinstance(shop, ImageBuilder) else _ordinary(targets):
            if isinstance(shop, ImageBuilder):
                if not offline:
                    shop.fetch([target])
                built = shop.build(target)
                documents[target.name] = _document(built)
                shop.say(target, f"built {built.digest} ({amount(built.size, 'B')})")
            else:
                documents[target.name] = {"image_id": shop.build(target)}
    if json_:
        print(json.dumps(documents, indent=2))


def _builder(
    asked: Builder, show: Callable[[str, Event], None], base: str, vllm: str, source: str
) -> ImageBuilder | EngineBuilder:
    """What this machine builds with, after saying so and what that promises."""
    from infra.images import builders
    from infra.images.engine_builder import EngineBuilder
    from infra.images.image_builder import ImageBuilder

    chosen = builders.choose(asked, base=base)
    show("builder", Event(event="log", message=builders.PROMISES[chosen]))
    if chosen is Builder.HERMETIC:
        return ImageBuilder(Settings(), show, base=base, vllm=vllm, source=source)
    return EngineBuilder(chosen, Settings(), show, base=base, vllm=vllm, source=source)


def _ordinary(names: list[str] | None) -> list[Target]:
    """As `_targets`; no name means all that an ordinary builder can make and a run needs."""
    return [target for target in _targets(names) if names or target.python]


@app.command()
def load(  # noqa: PLR0917 - typer makes options of them
    targets: Targets = None,
    base: Base = "",
    vllm: Vllm = "",
    source: Source = "carwright",
    builder: BuilderOption = Builder.AUTO,
    verbose: Verbose = False,
) -> None:
    """Load the images into the local container engine, after building those that are missing or outdated.

    An image that the engine has from the same inputs is left alone.
    """
    from infra.images.image_builder import ImageBuilder

    with terminal.display(verbose=verbose) as show:
        shop = _builder(builder, show, base, vllm, source)
        shop.update(_targets(targets) if isinstance(shop, ImageBuilder) else _ordinary(targets))


@app.command()
def verify(
    targets: Targets = None, base: Base = "", vllm: Vllm = "", verbose: Verbose = False, json_: Json = False
) -> None:
    """Build each image twice from scratch and compare image id and manifest digest, then file by file.

    Exit code 2 if two builds differ.
    """
    from infra.images.image_builder import ImageBuilder
    from infra.images.verify import verify as build_twice

    different: list[str] = []
    told: list[dict[str, Any]] = []
    with terminal.display(verbose=verbose) as show:
        builder = ImageBuilder(Settings(), show, base=base, vllm=vllm)
        for target in _targets(targets):
            builder.fetch([target])
            result = build_twice(builder, target)
            told.append(
                {
                    "name": target.name,
                    "same": result.same,
                    "digests": [str(result.first.digest), str(result.second.digest)],
                    "image_id": str(result.first.image_id),
                    "differences": list(map(str, result.differences)),
                }
            )
            if not result.same:
                different.append(target.name)
            if json_:
                continue
            if result.same:
                terminal.out.print(f"{target.name}: identical: {result.first.digest}, image id {result.first.image_id}")
                continue
            terminal.out.print(f"{target.name}: {result.first.digest} and {result.second.digest}")
            for line in result.differences:
                terminal.out.print(f"  {line}")
    if json_:
        terminal.document({"images": told})
    if different:
        raise BadInput(f"two builds of {', '.join(different)} are not the same image")


@app.command()
def sizes(targets: Targets = None, json_: Json = False) -> None:
    """Compare the sizes of the built images with their budget. Exit code 2 if one is larger."""
    from infra.images.image_builder import ImageBuilder, budget, over_budget

    builder = ImageBuilder(Settings(), lambda *_: None)
    storage = builder.storage()
    chosen = [target for target in _targets(targets) if targets or storage.find(builder.stored_name(target))]
    found = {target.name: storage.inspect(builder.stored_name(target)) for target in chosen}
    if not found:
        raise BadInput("no image was built yet", remedy="run `carwright images build`")
    limits = budget()
    if json_:
        print(
            json.dumps({name: {**_document(one), "budget": limits.get(name)} for name, one in found.items()}, indent=2)
        )
    else:
        rows = []
        for name, one in found.items():
            most = amount(limits[name], "B") if name in limits else "none"
            rows.append((name, amount(one.size, "B"), most, " ".join(amount(size, "B") for _, size in one.layers)))
        terminal.show_table(("image", "size", "budget", "layers"), rows)
    if wrong := over_budget({name: one.size for name, one in found.items()}, limits):
        raise BadInput("; ".join(wrong), remedy="make it smaller, or raise its budget in infra/images/budget.toml")


@app.command()
def context(
    target: Annotated[str, typer.Argument(help="Image by name.")],
    folder: Annotated[Path, typer.Argument(help="Folder to create for the context.")],
    base: Base = "",
    vllm: Vllm = "",
) -> None:
    """Write an image's build context, for another builder: docker build --network none --target labelled."""
    from infra.images.context import LABELLED, LAID_OUT, lay_out
    from infra.images.image_builder import ImageBuilder

    if folder.exists():
        raise BadInput(f"{folder} exists already")
    (one,) = _targets([target])
    with terminal.display() as show:
        builder = ImageBuilder(Settings(), show, base=base, vllm=vllm)
        builder.fetch([one])
        folder.mkdir(parents=True)
        try:
            inputs, cache, house = builder.inputs(one), builder.cache, builder.wheelhouse
            lay_out(inputs, folder, cache, house, lambda event: show(target, event), source=builder.source)
        except (Error, OSError):
            shutil.rmtree(folder)
            raise
    beneath = f"--build-arg BENEATH={inputs.arguments['BENEATH']} " if inputs.libraries else ""
    terminal.out.print(
        f"docker build --network none --file {folder}/Containerfile --build-context {LAID_OUT}={folder} {beneath}"
        f"--target {LABELLED} --tag {builder.name(one)} {folder}"
    )


def _document(built: Built) -> dict[str, object]:
    return {"digest": built.digest, "image_id": built.image_id, "size": built.size, "labels": dict(built.labels)}
