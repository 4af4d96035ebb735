"""RHEL AI: the `ilab` lines for the raw artifact, with all that ilab asks for checked before a line is printed.

ilab's rules are those of instructlab's src/instructlab/model/download.py: it hands `REPOSITORY:RELEASE` to skopeo, refuses
a repository with a second colon (a tag or a port), and links each layer's blob under its title into one flat folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from containers.contract import Frozen
from containers.errors import BadInput
from containers.oci.access import open_repository, read_manifest
from containers.oci.raw import is_raw
from containers.oci.reference import Reference
from containers.oci.referrers import TITLE
from containers.oci.repository import found
from containers.oci.types import ImageManifest
from flows.targets.description import Rendered, RenderedFile, command
from flows.targets.target import DeploymentTarget

if TYPE_CHECKING:
    from containers.digest import Digest
    from containers.oci.repository import Repository
    from flows.targets.description import Deployment
    from flows.targets.target import ModelSource
    from infra.settings import Settings

MODELS: Final = "~/.cache/instructlab/models"  # where ilab keeps models unless told otherwise


class RawRelease(Frozen):
    """The raw artifact: the tag that ilab is given, and the digest behind it."""

    repository: str
    tag: str
    digest: str


def find(reference: str, settings: Settings) -> RawRelease:
    """The raw artifact that a reference names itself, or that belongs to the modelcar that it names.

    Raises BadInput when there is none, when it has no release tag, and when ilab would refuse it.
    """
    check_repository(Reference.parse(reference))
    with open_repository(reference, settings) as repository:
        stored = read_manifest(repository)
        digest, manifest = _raw(repository, stored.digest)
        check_titles([layer.annotations.get(TITLE, "") for layer in manifest.layers])
        tags = [tag for tag in repository.tags() if not tag.startswith(("candidate-", "sha256-"))]
        wanted = repository.reference.tag
        ordered = sorted(tags, key=lambda tag: (tag not in (wanted, f"{wanted}-raw"), tag))
        for tag in ordered:
            there = repository.get(tag)
            if there is not None and there.digest == digest:
                return RawRelease(repository=repository.reference.name, tag=tag, digest=str(digest))
    raise BadInput(
        f"no release tag points at the raw artifact {digest}, and ilab takes a tag and no digest",
        remedy=f"push it under one: carwright push CHECKPOINT {Reference.parse(reference).name}:1.0 --also raw",
    )


def given(reference: str) -> RawRelease:
    """The raw artifact by a reference with its tag and its digest; nothing is asked of the registry.

    Raises BadInput when one of them is missing, and for what ilab would refuse.
    """
    parsed = Reference.parse(reference)
    check_repository(parsed)
    if not parsed.tag or parsed.digest is None:
        raise BadInput(
            f"{reference} holds no {'digest' if parsed.tag else 'tag'}, and ilab's lines need both",
            remedy="name the raw artifact as registry/repository:tag@sha256:..., or leave --model out",
        )
    return RawRelease(repository=parsed.name, tag=parsed.tag, digest=str(parsed.digest))


def check_repository(reference: Reference) -> None:
    """Raises BadInput for a folder and for a registry with a port."""
    if reference.layout is not None:
        raise BadInput(f"{reference} is a folder; ilab downloads from a registry", remedy="push it to one, --also raw")
    if ":" in reference.registry:
        raise BadInput(
            f"ilab refuses a registry with a port: {reference.registry}",
            remedy="serve the registry on 443, or copy the artifact to one that is",
        )


def check_titles(titles: list[str]) -> None:
    """Raises BadInput for a file without a title or in a sub-folder, which ilab does not make."""
    if not all(titles):
        raise BadInput("a layer has no title, so ilab cannot name its file", remedy="push it again with --also raw")
    nested = sorted(title for title in titles if "/" in title)
    if nested:
        raise BadInput(
            f"ilab makes no sub-folders and would fail at {nested[0]}",
            remedy="leave the sub-folder out of the checkpoint: a text model does not need it",
        )


def render(deployment: Deployment, release: RawRelease) -> Rendered:
    """`<name>.rhel-ai.sh`: download, check, serve, chat."""
    model = f"{MODELS}/{release.repository.rpartition('/')[2]}"
    where = f"docker://{release.repository}:{release.tag}"
    check = f"test \"$(skopeo inspect --format '{{{{.Digest}}}}' {where})\" = \\\n  {release.digest}\n"
    extra = [one for one in deployment.tuning if not one.startswith("--tensor-parallel-size")]
    lines: list[Any] = [
        "#!/bin/sh\nset -eu\n",
        "# ilab takes a tag and no digest: say first that the tag still is what was tested.",
        check,
        command(
            ("ilab", "model", "download"),
            ("--repository", f"docker://{release.repository}"),
            ("--release", release.tag),
        ),
        # ilab's own templates are for its own models; --gpus becomes vLLM's tensor parallel size.
        command(
            ("ilab", "model", "serve"),
            ("--model-path", "MODEL"),
            ("--backend", "vllm"),
            ("--gpus", str(max(1, deployment.gpus))),
            ("--chat-template", "tokenizer"),
            "--",
            *extra,
        ).replace("MODEL", model),  # unquoted: the shell is to expand ~
        f"# In another terminal:\n# ilab model chat --model {model}",
    ]
    return Rendered(
        files=(RenderedFile(name=f"{deployment.name}.rhel-ai.sh", text="\n".join(lines) + "\n"),),
        notes=("ilab was not run here: the lines follow its source, not a trial",),
    )


def _raw(repository: Repository, digest: Digest) -> tuple[Digest, ImageManifest]:
    manifest = found(repository, str(digest)).parse()
    if isinstance(manifest, ImageManifest) and is_raw(manifest):
        return digest, manifest
    for referrer in repository.referrers(digest):
        candidate = found(repository, str(referrer.digest)).parse()
        if isinstance(candidate, ImageManifest) and is_raw(candidate):
            return referrer.digest, candidate
    raise BadInput(
        f"{repository.reference} has no raw artifact beside it, and ilab cannot read a modelcar (a blob must be the file)",
        remedy="push it with --also raw",
    )


def _release(source: ModelSource) -> RawRelease:
    return given(source.reference) if source.settings is None else find(source.reference, source.settings)


TARGET: Final = DeploymentTarget(
    name="rhel-ai",
    help="a machine with RHEL AI, by `ilab`",
    render=lambda deployment, source, _: render(deployment, _release(source)),
)
