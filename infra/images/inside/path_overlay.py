"""Put a folder at the end of this Python's path, after all that it has.

python path_overlay.py FOLDER
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def main(folder: Path) -> None:
    place = Path(sysconfig.get_path("purelib"))
    place.mkdir(parents=True, exist_ok=True)
    Path(place, "carwright.pth").write_text(f"{folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
