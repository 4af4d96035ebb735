"""End with code 1 unless this build has no network. Nothing is sent: connecting a datagram socket only looks for a route.

An ordinary build (infra/images/ordinary.py) says that it has one by a file beside this program.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

ALLOWED = "network"  # name of that file
_TEST_NET = ("192.0.2.1", 9)  # RFC 5737: nobody has this address


def main() -> int:
    if Path(__file__).with_name(ALLOWED).exists():
        return 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_TEST_NET)
        except OSError:
            return 0
    print("this build has a network, and what it made could depend on that: build with --network none", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
