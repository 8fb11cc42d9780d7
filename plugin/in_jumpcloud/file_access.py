"""How files are found and opened: those of the package, written for their owner only, read with a bound."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import stat
import time
from pathlib import Path

_WAIT_SECONDS = 5.0
"""How long a pipe may give nothing."""
_READ_BYTES = 65_536
_MAX_DIGEST_BYTES = 4 * 1024**2
NOT_A_FILE = {errno.EFBIG, errno.EPIPE, errno.ENODATA}
"""What `read_limited` raises for a device or a pipe: waiting does not help."""


def package_file(installed: str, checkout: str) -> Path:
    """A file of the installed package, or the file in the checkout for an editable installation."""
    package = Path(__file__).parent
    file = package / installed
    return file if file.exists() else package.parents[1] / checkout


def open_private(path: Path, *, create: bool, exclusive: bool = False) -> int:
    """Open a regular file to read and write. It is never reached through a symbolic link as the last part of `path`.

    A new file is readable by its owner only, whatever the umask is. If root creates it in a directory of another user,
    it belongs to that user: a command that root runs must not lock out the plugin.

    Returns:
        The file descriptor, to be closed by the caller.

    Raises:
        FileExistsError: there is something at the path, and `exclusive` is set.
        OSError: it cannot be opened; EINVAL: it is a pipe or a device.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    if not exclusive:
        try:
            return _regular(os.open(path, flags), path)
        except FileNotFoundError:
            if not create:
                raise
    file = os.open(path, flags | os.O_CREAT | (os.O_EXCL if exclusive else 0), 0o600)
    try:
        os.fchmod(file, 0o600)
        directory = path.parent.stat()
        if os.geteuid() == 0 and directory.st_uid:
            os.fchown(file, directory.st_uid, directory.st_gid)
    except BaseException:
        os.close(file)
        raise
    return file


def create_private_directory(path: Path) -> None:
    """Create a directory and its parents where they are missing, for their owner only, as `open_private` creates files.

    Raises:
        OSError: one cannot be created.
    """
    if path.is_dir():
        return
    create_private_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid:
        os.chown(path, owner.st_uid, owner.st_gid)


def _regular(file: int, path: Path) -> int:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_limited(path: Path, max_bytes: int) -> bytes:
    """The content of a file or a pipe of at most `max_bytes`. A pipe or a terminal may take 5 s to give something.

    Raises:
        OSError: it cannot be read; EFBIG: it is larger; ENODATA: it gives nothing; EPIPE: nothing writes to the pipe.
    """
    # Opening a pipe that nothing writes to would block.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(file).st_mode)
        content = b""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                part = os.read(file, min(_READ_BYTES, max_bytes + 1 - len(content)))
            except BlockingIOError:
                if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise OSError(errno.ENODATA, "nothing arrives from it", str(path)) from None
                continue
            if not part:
                break
            content += part
            if len(content) > max_bytes:
                raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes", str(path))
        if is_pipe and not content:
            raise OSError(errno.EPIPE, "it is a pipe that nothing writes to", str(path))
        return content
    finally:
        os.close(file)


def content_digest(path: Path) -> bytes | None:
    """What tells one content of a file from another; None if there is none to read, as of a pipe, or too much."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file can raise
        return None
    try:
        return hashlib.sha256(read_limited(path, _MAX_DIGEST_BYTES)).digest()
    except OSError:
        return None
