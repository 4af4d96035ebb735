"""The health check of an image that serves: whether a URL is answered at all.

    python healthy.py URL

An answer that asks for a login is an answer. Ends with code 1 when none comes within 3 seconds.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request


def main(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=3):  # noqa: S310 - the image's own address
            return 0
    except urllib.error.HTTPError as answer:
        return int(answer.code >= 500)
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
