"""`make shell`: write the compiled programs, and say whether they are the pinned ones."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from containers.errors import Error
from containers.oci import minimal
from infra.modelcar_shell import SOURCE, compile_shell, compiler
from infra.settings import Settings

if TYPE_CHECKING:
    from containers.events import Event


def _log(event: Event) -> None:
    print(event.message, file=sys.stderr)


def main() -> int:
    """0 when all is what containers/oci/minimal pins; 2 when a pin has to be changed, or the source is wrong."""
    code = 0
    try:
        python = compiler(Settings(), _log)
        if (source := hashlib.sha256(SOURCE.read_bytes()).hexdigest()) != minimal.SOURCE:
            print(f"sh.zig {source}: not the digest in containers/oci/minimal/__init__.py")
            code = 2
        for architecture, pinned in minimal.SHELLS.items():
            program = compile_shell(python, architecture)
            minimal.path_of(architecture).write_bytes(program)
            digest = hashlib.sha256(program).hexdigest()
            same = digest == pinned
            print(f"{architecture} {digest}{'' if same else ': not the digest in containers/oci/minimal/__init__.py'}")
            code = code if same else 2
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
