"""What a policy demands before vLLM reads a byte: of the image, and of the files as they lie here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containers.errors import NotTrusted
from containers.trust.model_signing import compare, hash_folder
from containers.trust.policy import Policy
from containers.trust.verify import check

if TYPE_CHECKING:
    from pathlib import Path

    from containers.parameters import ServeOptions, ServeParameters
    from containers.step import Context


def check_image(parameters: ServeParameters, options: ServeOptions, context: Context) -> None:
    """Raises NotTrusted unless the policy of the request, if it has one, lets the model be served.

    A model that the container engine mounts was looked at by whoever started this step, which has no way to the registry.
    """
    if not options.policy or options.folder or options.stage in {"serve", "compare"}:
        return
    if not parameters.reference:
        raise NotTrusted(
            "a policy is set, and the model is not an image that could be signed", remedy="serve a modelcar"
        )
    trusted = check(parameters.reference, Policy.load(options.policy), context.settings)
    for name, keys in trusted.signed.items():
        context.report.log(f"{name}: signed by {', '.join(keys)}")


def check_files(model: Path, options: ServeOptions, context: Context) -> None:
    """Raises NotTrusted unless the folder holds exactly the files that the request names, each byte as it was signed."""
    if not options.files:
        if options.policy:
            raise NotTrusted(
                "a policy is set, and the image lists no files to compare with what lies here",
                remedy="push the model with `carwright push`, which lists them",
            )
        return
    compare(hash_folder(model, links=True, whole=True), options.files, str(model))
    context.report.log(f"{len(options.files)} files are what was signed")
