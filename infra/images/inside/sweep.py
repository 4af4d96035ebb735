"""Remove what building left behind, and sort what it wrote in no order: the last thing that a build does in its image.

    python sweep.py ENVIRONMENT

The RECORD of an installed package (PyPA, "Recording installed projects") lists its files, in whatever order the installer's
threads came to them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def main(environment: Path) -> None:
    for record in environment.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        record.write_text("".join(sorted(record.read_text().splitlines(keepends=True))))
    for path in Path("/tmp").iterdir():  # noqa: S108 - the image's own
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
