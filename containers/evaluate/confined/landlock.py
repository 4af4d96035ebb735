"""Restricts a process to reading a few folders (landlock(7)), where no namespace hides the others."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# The calls have one number on every architecture. The access rights of its first version, 13 bits, are all handled; later
# ones (truncate, ioctl of devices, network) only matter for files that can be opened for writing and for sockets.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_SET_NO_NEW_PRIVILEGES: Final = 38
_EVERY_RIGHT: Final = (1 << 13) - 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_PATH_BENEATH: Final = 1


def read_only(folders: Iterable[str]) -> None:
    """Permanently restrict this process to reading files below `folders`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.create_string_buffer(struct.pack("=Q", _EVERY_RIGHT), 8)
    rules = libc.syscall(_CREATE, handled, 8, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "the system has no Landlock, or does not let it be used")
    for folder in folders:
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", _EXECUTE | _READ_FILE | _READ_DIR, place), 12)
        if libc.syscall(_ADD, rules, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), f"cannot allow {folder}")
        os.close(place)
    if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "cannot close the other files")
    os.close(rules)
