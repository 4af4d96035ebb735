"""End with code 1 unless this build has no network. Nothing is sent: connecting a datagram socket only looks for a route."""

from __future__ import annotations

import socket
import sys

_TEST_NET = ("192.0.2.1", 9)  # RFC 5737: nobody has this address


def main() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_TEST_NET)
        except OSError:
            return 0
    print("this build has a network, and what it made could depend on that: build with --network none", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
