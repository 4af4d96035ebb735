"""Whether vLLM takes a user's arguments, found out before there is a model.

vLLM itself is asked, as it would be started, for the model in a folder with nothing in it: it reads its arguments first, and
ends with argparse's code 2 where it does not take one. That takes as long as importing it, 8 s of one core.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from containers.errors import BadInput
from containers.process import run
from containers.serve import vllm_command
from containers.serve.diagnosis import explain

if TYPE_CHECKING:
    from containers.parameters import ServeParameters
    from containers.serve.vllm_command import InstalledVllm
    from containers.step import Context

_TIMEOUT: Final = 300.0  # seconds; a first import from a slow disk takes minutes
_USAGE: Final = 2  # what argparse ends with
_PARSER: Final = re.compile(r"invalid (tool call|reasoning) parser")  # looked for after argparse, and before the model


def check_arguments(
    vllm: InstalledVllm, parameters: ServeParameters, context: Context, python: Path | None = None
) -> None:
    """Raises BadInput for arguments that it does not take, and for one after which it serves nothing (--help)."""
    context.report.log(f"asking {vllm} whether it takes {' '.join(parameters.arguments)}")
    with tempfile.TemporaryDirectory(dir=context.scratch) as empty:
        argv = vllm_command.command(vllm, parameters, Path(empty), Path(empty, "socket"), python=python)
        done = run(
            argv, env=vllm_command.environment(vllm, parameters, context.settings), check=False, timeout=_TIMEOUT
        )
    if done.code == _USAGE or _PARSER.search(done.stderr):
        raise explain(done.stderr.splitlines(), f"vLLM ended with code {done.code}")
    if done.code == 0:
        raise BadInput(
            f"with {' '.join(parameters.arguments)} vLLM ends at once and serves nothing",
            remedy="leave out the --vllm-argument that asks for something else",
        )
