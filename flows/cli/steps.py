"""The steps one by one: `carwright download`, `quantize` and `serve`, without a flow and without Prefect."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from containers.architectures import quantization
from containers.errors import Temporary
from containers.parameters import QuantizeOptions
from flows.admission import admit
from flows.cli import terminal
from flows.cli.options import Device, Json, Verbose, takes_options_of
from flows.cli.trust import PolicyFile, check_signed, signed_files
from flows.ship_request import ServingOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from containers.parameters import QuantizeParameters

app = typer.Typer()

Model = Annotated[
    str | None,
    typer.Argument(
        help="hf://org/name, file:///dir or s3://bucket/prefix. Default: the demo model.", show_default=False
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the files into this folder.")]
MaxModelLen = Annotated[int, typer.Option(help="Context length in tokens.")]


def _check_device(device: str | None) -> str | None:
    if device is not None and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise typer.BadParameter(f"{device!r} is none of auto, cpu, cuda and cuda:N")
    return device


@app.command()
def download(  # noqa: PLR0917 - typer makes options of them
    model: Model = None,
    revision: Revision = None,
    output: Output = None,
    policy: PolicyFile = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key that must have signed it; may be repeated.")
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option(
            help="The model's signature (OpenSSF Model Signing).", show_default="model.sig in a file:// folder"
        ),
    ] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Download a checkpoint into the store: safetensors only; files are verified, broken transfers resumed.

    With a key, or a policy and a signature, it must be what was signed: exit code 5 says that it is not.
    """
    from flows.cli.session import session_with_model, show_artifact

    with session_with_model(model, verbose=verbose) as (session, name):
        wanted = signed_files(name, policy, key, signature)
        _, ref = session.download(name, revision)
        if wanted is not None:
            check_signed(session.store.load(ref), wanted, name)
        show_artifact(session.store, ref, output, as_json=json_)


@app.command()
def quantize(  # noqa: PLR0917 - typer makes options of them
    model: Model = None,
    revision: Revision = None,
    scheme: Annotated[str, typer.Option(help="Quantization scheme of weights and activations.")] = "FP8_DYNAMIC",
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Module to keep unquantized, besides those of the architecture's recipe: a name, or re:EXPRESSION."
        ),
    ] = None,
    ignore_only: Annotated[
        list[str] | None, typer.Option(help="Module to keep unquantized, instead of the architecture's recipe.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N.", show_default="the setting device", callback=_check_device),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be done, from the file headers alone, and stop.")
    ] = False,
    output: Output = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Quantize a checkpoint with llm-compressor's arithmetic, shard by shard; a killed run continues where it stopped.

    --plan reads a folder (file:///dir) in place; a checkpoint from elsewhere is downloaded first.
    """
    from flows.cli.session import session_with_model, show_artifact, show_plan
    from flows.targets.model import config_of

    def recipe(config: Mapping[str, JsonValue]) -> QuantizeParameters:
        action: Literal["plan", "quantize"] = "plan" if plan else "quantize"
        return quantization(config, scheme, more=tuple(ignore or ()), only=tuple(ignore_only or ()), action=action)

    with session_with_model(model, verbose=verbose, device=device and device.partition(":")[0]) as (session, name):
        if not plan:
            session.check_device()
        folder = name.removeprefix("file://")
        if plan and folder != name:
            options = QuantizeOptions(folder=folder)
            show_plan(session.run(session.requests.plan(recipe(config_of(Path(folder))), options)), as_json=json_)
            return
        source, checkpoint = session.download(name, revision)
        if plan:
            show_plan(session.quantize(checkpoint, recipe(source.config)), as_json=json_)
            return
        result = session.quantize(checkpoint, recipe(source.config), device or "auto")
        show_artifact(session.store, result.outputs["checkpoint"], output, as_json=json_)


@app.command()
@takes_options_of(ServingOptions, "serving", without=("max_model_len", "concurrency"))
def serve(  # noqa: PLR0917 - typer makes options of them
    what: Annotated[
        str,
        typer.Argument(help="A modelcar by reference (oci:DIR@sha256:..., registry/repository:tag) or a model source."),
    ],
    serving: ServingOptions,
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 8000,
    name: Annotated[str, typer.Option(help="Model name in requests.", show_default="from the reference")] = "",
    max_model_len: MaxModelLen = 2048,
    policy: PolicyFile = None,
    device: Device = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Serve a modelcar or a checkpoint with vLLM on this machine, until Ctrl-C.

    With a policy, only a model that passes it is served. Exit code 5: it did not; the message says why. The document of --json comes
    when the model answers.
    """
    from flows.cli.session import session as open_session

    with open_session(verbose=verbose, device=device) as session, ExitStack() as stack:
        session.check_device()
        admitted = admit(what, policy, session.runtime.settings, terminal.err.print)
        chosen = admitted.reference if admitted is not None else what
        subject = session.fetch(session.locate(chosen, name, max_model_len, serving))
        lease = stack.enter_context(session.serve(subject, port=port, admitted=admitted))
        url = lease.endpoint.published or lease.endpoint.url
        name = lease.endpoint.served_model_name
        if json_:
            terminal.document({"url": url, "served_model_name": name})
        else:
            terminal.out.print(f"serving {name} at {url}  (Ctrl-C ends it)")
            terminal.out.print(
                f"  curl {url}/chat/completions -H 'Content-Type: application/json' -d "
                f"""'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""
            )
        while lease.serves:
            time.sleep(1)
        raise Temporary("vLLM ended", remedy="see the newest engine.log under .carwright/runs")
