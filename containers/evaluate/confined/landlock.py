"""Restricts a process to reading a few folders (landlock(7)), where no namespace hides the others."""

from __future__ import annotations

import ctypes
import os
import stat
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
_VERSION: Final = 1


def available() -> bool:
    """Whether the system has Landlock and lets it be used."""
    return int(ctypes.CDLL(None).syscall(_CREATE, None, 0, _VERSION)) > 0


def read_only(folders: Iterable[str]) -> None:
    """Permanently restrict this process to reading files below `folders`, of which some may be files. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.create_string_buffer(struct.pack("=Q", _EVERY_RIGHT), 8)
    rules = libc.syscall(_CREATE, handled, 8, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "the system has no Landlock, or does not let it be used")
    for folder in folders:
        place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rights = _EXECUTE | _READ_FILE | (_READ_DIR if stat.S_ISDIR(os.fstat(place).st_mode) else 0)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, place), 12)
        if libc.syscall(_ADD, rules, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), f"cannot allow {folder}")
        os.close(place)
    if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "cannot close the other files")
    os.close(rules)
