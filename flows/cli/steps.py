"""The steps one by one: `carwright download`, `quantize` and `serve`, without a flow and without Prefect."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from containers.contract import QuantizeOptions, QuantizeParameters
from containers.errors import Temporary
from flows.cli import terminal

app = typer.Typer()

Model = Annotated[
    str | None,
    typer.Argument(
        help="hf://org/name, file:///dir or s3://bucket/prefix. Without it: the demo model.", show_default=False
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the files into this folder.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries print, too.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
MaxModelLen = Annotated[int, typer.Option(help="Tokens of context.")]


@app.command()
def download(
    model: Model = None, revision: Revision = None, output: Output = None, json_: Json = False, verbose: Verbose = False
) -> None:
    """Bring a checkpoint into the store: safetensors only, every file verified, a broken transfer resumed."""
    from flows.local import single_step

    with single_step.session(model, verbose=verbose) as (name, _):
        _, ref = single_step.checkpoint(name, revision)
        single_step.show_artifact(ref, output, as_json=json_)


@app.command()
def quantize(  # noqa: PLR0917 - typer makes options of them
    model: Model = None,
    revision: Revision = None,
    scheme: Annotated[str, typer.Option(help="How weights and activations are quantized.")] = "FP8_DYNAMIC",
    ignore: Annotated[
        list[str] | None, typer.Option(help="Module names to leave alone; a regular expression begins with re:.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be done, from the headers alone, and do nothing.")
    ] = False,
    output: Output = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Quantize a checkpoint with llm-compressor's arithmetic, shard by shard; a killed run goes on where it stopped.

    With --plan a folder (file:///dir) is looked at where it is; a checkpoint from elsewhere is downloaded first.
    """
    from flows import requests
    from flows.local import single_step

    recipe = QuantizeParameters(
        action="plan" if plan else "quantize", scheme=scheme, **({"ignore": tuple(ignore)} if ignore else {})
    )
    with single_step.session(model, verbose=verbose) as (name, _):
        folder = name.removeprefix("file://")
        if plan and folder != name:
            single_step.show_plan(single_step.run(requests.plan(recipe, QuantizeOptions(folder=folder))), as_json=json_)
            return
        _, checkpoint = single_step.checkpoint(name, revision)
        if plan:
            result = single_step.run(requests.quantize(checkpoint, recipe, QuantizeOptions()))
            single_step.show_plan(result, as_json=json_)
            return
        result = single_step.run(requests.quantize(checkpoint, recipe, QuantizeOptions(device=device)))
        single_step.show_artifact(result.outputs["checkpoint"], output, as_json=json_)


@app.command()
def serve(
    what: Annotated[
        str,
        typer.Argument(help="A modelcar by reference (oci:DIR@sha256:..., registry/repository:tag) or a model source."),
    ],
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 8000,
    name: Annotated[str, typer.Option(help="Name that requests must give.", show_default="from the reference")] = "",
    max_model_len: MaxModelLen = 2048,
    verbose: Verbose = False,
) -> None:
    """Serve a modelcar or a checkpoint with vLLM on this machine, until Ctrl-C."""
    from flows import requests
    from flows.local import single_step

    with single_step.session(what, verbose=verbose, source=False) as (_, now):
        subject = single_step.subject(what, name, max_model_len)
        lease = now.services.start(requests.serve(subject, port=port), lambda event: now.listener("serve", event))
        try:
            url = lease.endpoint.published or lease.endpoint.url
            terminal.out.print(f"serving {lease.endpoint.served_model_name} at {url}  (Ctrl-C ends it)")
            terminal.out.print(
                f"  curl {url}/chat/completions -H 'Content-Type: application/json' -d "
                f"""'{{"model": "{lease.endpoint.served_model_name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""
            )
            while lease.serves:
                time.sleep(1)
            raise Temporary("vLLM ended", remedy="its log is the newest engine.log under .carwright/runs")
        finally:
            lease.end()
