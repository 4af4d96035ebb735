"""Takes connections at a TCP port and passes them on, byte by byte, to the Unix socket that vLLM listens on.

vLLM would bind its port with SO_REUSEADDR while it loads and listen on it minutes later. Until then any user of the machine
could listen there first, and what they answer would be measured. So the port is this process's own (`containers.ports`), and
vLLM listens on a socket in a folder that only this user can enter.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

_PIECE: Final = 1 << 16  # bytes
_BACKLOG: Final = 2048  # connections that wait to be taken, as many as uvicorn lets wait


@contextmanager
def passing_on(listening: socket.socket, target: Path) -> Iterator[None]:
    """Take connections of a bound socket until the block ends. One that finds nobody at `target` is closed."""
    loop = asyncio.new_event_loop()
    taken: set[asyncio.Task[None]] = set()

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(_connection(reader, writer, target))  # asyncio's own complains when it is cancelled
        taken.add(task)
        task.add_done_callback(taken.discard)
        task.add_done_callback(lambda _: writer.close())  # also of one that was cancelled before it began

    server = loop.run_until_complete(asyncio.start_server(take, sock=listening, backlog=_BACKLOG, limit=_PIECE))
    ending = asyncio.Event()
    thread = threading.Thread(target=_run, args=(loop, server, ending), daemon=True, name="front")
    thread.start()
    try:
        yield
    finally:  # a second signal may end the wait, and the thread goes on to the end of its work by itself
        loop.call_soon_threadsafe(ending.set)
        thread.join()


def _run(loop: asyncio.AbstractEventLoop, server: asyncio.Server, ending: asyncio.Event) -> None:
    try:
        loop.run_until_complete(_serve(server, ending))
    finally:
        loop.close()


async def _serve(server: asyncio.Server, ending: asyncio.Event) -> None:
    await ending.wait()
    server.close()
    # Again and again: a connection that was taken just now becomes a task of its own a moment later.
    while open_ones := asyncio.all_tasks() - {asyncio.current_task()}:
        for one in open_ones:
            one.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
    await asyncio.sleep(0)  # what they closed is closed in the loop's next round


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Path) -> None:
    there: asyncio.StreamWriter | None = None
    try:
        answers, there = await asyncio.open_unix_connection(str(target), limit=_PIECE)
        await asyncio.gather(_pass(reader, there), _pass(answers, writer))
    except OSError:  # one of the two has gone: so does the other
        pass
    finally:
        for one in (writer, there):
            if one is not None:
                one.transport.abort() if one.transport.get_write_buffer_size() else one.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side has said all; the other is told (a client that hangs up ends the work on its answer)."""
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
