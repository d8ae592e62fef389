"""Only the user who made a collection can read it: folders have mode 0700, files 0600.

The process's umask stays as it is: it would be every thread's.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077
logger = logging.getLogger("vivace.store")


def make_folder(folder: Path) -> None:
    """Make a folder and the missing ones above it, each for this user only.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.parent.exists():
        make_folder(folder.parent)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def make_file(path: Path) -> None:
    """Make an empty file for this user only, unless there is one.

    Raises:
        OSError: it cannot be made.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))


def tighten(folder: Path) -> bool:
    """Take the rights of other users from all that is in the folder, and log it if they had any.

    False: it is another user's folder, and stays as it is.
    """
    if folder.stat().st_uid != os.geteuid():
        return False
    changed = 0
    for path in _below(folder):
        with suppress(OSError):  # a read-only disk, or a file that another process just removed
            mode = path.lstat().st_mode
            if mode & _OTHERS and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
                changed += 1
    if changed:
        logger.warning(
            "%s: other users of this machine could read or list it; from now on only you can"
            " (%d files and folders changed)",
            folder,
            changed,
        )
    return True


def _below(folder: Path) -> Iterator[Path]:
    yield folder
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(where, name)
