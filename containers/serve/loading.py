"""A server that is ready, whatever became of the way in which it was to read the weights."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from containers.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from containers.process import Child
    from containers.serve.server import VllmServer


@contextmanager
def ready(make: Callable[[str], VllmServer], load_format: str) -> Iterator[tuple[VllmServer, Child]]:
    """A server that is ready, with its process, which ends with the block. `make` makes one for a load format of vLLM's.

    One that could not load its weights in this format is started again, once, with vLLM's default: a faster format needs
    more room and more of the driver. Raises what `VllmServer.wait_ready` raises.
    """
    with ExitStack() as stack:
        server = make(load_format)
        child = stack.enter_context(server.child())
        try:
            server.wait_ready(child)
        except Error as error:
            if not load_format or not server.failed_loading:
                raise
            stack.close()
            server.socket.unlink(missing_ok=True)  # which the first may have left
            server.report.log(
                f"vLLM could not load the weights by {load_format}, so it starts again with its default: {error.message}"
            )
            server = make("")
            child = stack.enter_context(server.child())
            server.wait_ready(child)
        yield server, child
