"""A container engine to test with: an image of busybox alone, in which a shell script plays every step."""

from __future__ import annotations

import base64
import io
import re
import secrets
import shutil
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker

from containers.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator

# What `python3 -m containers.<step> --request R --result R` becomes. The parameter `play` of the request (see
# `played`) is run as a shell's program; `$result` is where the result belongs.
# A server is played by its contract: the name that it serves says how, /mnt/models is what it reads, and it is stopped
# by SIGTERM.
_PLAYER = """#!/bin/sh
request=$4 result=$6
if [ "$2" = containers.serve ]; then
    option() { sed -n "s/^ *\\"$1\\": \\"\\(.*\\)\\",*$/\\1/p" "$request"; }
    if [ "$(option served_model_name)" = broken ]; then
        echo '{"event": "error", "message": "no such architecture", "exit_code": 2}' >&2
        exit 2
    fi
    if [ "$(option stage)" = fetch ]; then
        ls /run/secrets >/run/carwright/home/fetched; echo "fetched with $(cat /run/carwright/home/fetched | tr '\\n' ' ')"
        exit 0
    fi
    folder=$(option folder)
    if [ "$(option stage)" = compare ]; then
        seen=$(sha256sum < "$folder/config.json")
        [ "sha256:${seen%% *}" = "$(option config.json)" ] && { echo '{"step": "serve"}' > "$result"; exit 0; }
        echo '{"event": "error", "message": "config.json is not what was signed", "exit_code": 5}' >&2
        exit 5
    fi
    [ -z "$folder" ] || { id -u; echo "link: $(ls -l $folder)"; ls $folder/; cat $folder/config.json && echo || exit 1; }
    url=$(option advertise)
    echo "{\\"step\\": \\"serve\\", \\"values\\": {\\"url\\": \\"${url:-http://127.0.0.1:1/v1}\\"," \
        "\\"served_model_name\\": \\"m\\", \\"engine\\": \\"played\\"}}" > "$result"
    trap 'exit 0' TERM
    sleep 1000 &
    wait
fi
eval "$(sed -n 's/^ *"play": "\\(.*\\)",*$/\\1/p' "$request" | base64 -d)"
"""
# An engine that answers, for what is rendered: it serves only when the model is where it was told, with the digest of the
# model's configuration. Put as python3 and as answer beside busybox.
SERVER = r"""#!/bin/busybox sh
for word; do case "$word" in
  --model=*) model=${word#*=} ;; --port=*) port=${word#*=} ;; --served-model-name=*) name=${word#*=} ;;
esac; done
until [ -e "$model/config.json" ]; do sleep 0.1; done
echo "serving $model as $(id -u)"
export model name
exec nc -ll -p "$port" -e /bin/answer
"""
ANSWER = r"""#!/bin/busybox sh
read -r method path _
length=0
while read -r key value; do
  key=${key%$'\r'}
  case "$key" in "") break ;; [Cc]ontent-[Ll]ength:) length=${value%$'\r'} ;; esac
done
[ "$length" = 0 ] || head -c "$length" >/dev/null
case "$path" in
  /health) body="" ;;
  /v1/models) body="{\"data\": [{\"id\": \"$name\"}]}" ;;
  *) body="{\"choices\": [{\"text\": \"$(md5sum < "$model/config.json")\"}]}" ;;
esac
printf 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %s\r\n\r\n%s' "${#body}" "$body"
"""
_APPLETS = (
    "sh", "base64", "cat", "dd", "env", "grep", "head", "id", "ln", "ls", "md5sum", "nc", "sed", "sha256sum", "sleep", "touch",
)  # fmt: skip


def busybox() -> Path:
    """The static busybox that the modelcar's base is made from, too."""
    found = shutil.which("busybox")
    assert found, "install Debian's busybox-static"
    return Path(found).resolve()


def rootfs(files: dict[str, bytes]) -> bytes:
    """A tar with busybox, its applets, a /tmp, and the files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, content: bytes | None = None, mode: int = 0o755, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.mode, info.size, info.linkname = mode, len(content or b""), link
            if content is None:
                info.type = tarfile.SYMTYPE if link else tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(content or b""))

        add("bin")
        add("tmp", mode=0o1777)
        add("bin/busybox", busybox().read_bytes())
        for applet in _APPLETS:
            add(f"bin/{applet}", link="busybox")
        for name, content in files.items():
            for folder in reversed(Path(name).parents[:-1]):
                if str(folder) not in archive.getnames():
                    add(str(folder))
            add(name, content)
    return buffer.getvalue()


def _bubblewrap() -> dict[str, bytes]:
    bwrap = shutil.which("bwrap")
    assert bwrap, "install Debian's bubblewrap"
    libraries = re.findall(r"(/lib\S+)", run(["ldd", bwrap]).stdout)
    return {path.lstrip("/"): Path(path).read_bytes() for path in libraries} | {"bin/bwrap": Path(bwrap).read_bytes()}


def answering(server: str = SERVER) -> bytes:
    """A tar of the engine that answers, or of one that runs another script as python3."""
    return rootfs({"bin/python3": server.encode(), "bin/answer": ANSWER.encode()})


@contextmanager
def played_images() -> Iterator[tuple[str, Any]]:
    """The pattern of image names (`docker.image`) under which every step is played, and a client of the engine.

    The image also holds this machine's bubblewrap with its libraries.
    """
    api = docker.APIClient(version="auto")
    repository = f"carwright-played-{secrets.token_hex(4)}"
    api.import_image_from_data(
        rootfs({"bin/python3": _PLAYER.encode()} | _bubblewrap()), repository=repository, tag="latest"
    )
    try:
        yield repository + ":latest", api
    finally:
        api.remove_image(repository + ":latest", force=True)
        api.close()


def played(program: str) -> dict[str, str]:
    """The parameters of a request whose step is to be this shell program."""
    return {"play": base64.b64encode(program.encode()).decode()}


def left(api: Any, project: str) -> list[str]:
    """The names of the containers of a project, whatever their state."""
    found = api.containers(all=True, filters={"label": f"dev.carwright.project={project}"})
    return [one["Names"][0].lstrip("/") for one in found]
