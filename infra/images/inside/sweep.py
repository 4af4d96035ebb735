"""Remove what building left behind, and sort what it wrote in no order: the last thing that a build does in its image.

    python sweep.py ENVIRONMENT

The RECORD of an installed package (PyPA, "Recording installed projects") lists its files, in whatever order the installer's
threads came to them. uv_cache.json holds the date of the wheel that uv installed, for uv itself.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

TEMPORARY = Path("/tmp")  # noqa: S108 - the image's own
_DATED = "uv_cache.json"


def main(environment: Path) -> None:
    for record in environment.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        record.with_name(_DATED).unlink(missing_ok=True)
        text = record.read_text()
        ordered = "".join(sorted(line for line in text.splitlines(keepends=True) if f"/{_DATED}," not in line))
        if ordered != text:  # else it may be of a layer beneath, of which this one needs no copy
            record.write_text(ordered)
    for path in TEMPORARY.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
