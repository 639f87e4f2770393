"""Files that are read: real ones, up to a size. Files that are written: whole or not at all, below their folder, never
through a link that lies there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from pytest_llmperf.boundary.secrets import redacted_file

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


MOST_BYTES = 256 << 20
"""Most bytes of a file that is read as a whole, where the caller gives no other limit."""


def open_file(path: Path) -> IO[bytes]:
    """A file to be read. OSError where it is none (a pipe, a device: reading them may never end)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Content of a file. Raises OSError as `open_file` does, and where it is too large."""
    with open_file(path) as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"has more than {most_bytes >> 20} MiB", str(path))
    return data


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The same as UTF-8 text. OSError and UnicodeDecodeError."""
    return read_file(path, most_bytes).decode("utf-8")


def inside(folder: Path, *names: str) -> Path:
    """The path of a file below `folder`, whose own folders exist from now on.

    OSError when one cannot be made, or when `..`, an absolute name or a link leads out of `folder`.
    """
    path = folder.joinpath(*names)
    if not leads_inside(folder, path):
        raise OSError(errno.ELOOP, f"leads out of {folder}", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def leads_inside(folder: Path, path: Path) -> bool:
    """True if the file's folder is `folder` or lies below it, with all links followed but that of the file itself."""
    return path.name not in ("", "..") and path.parent.resolve().is_relative_to(folder.resolve())


Content = str | bytes | Iterable[str]
"""Text or bytes of a file, or the lines of one, each written as it comes."""


def write_whole(path: Path, content: Content) -> None:
    """Writes the file in the place of what goes by its name, a link too: readers see the old one or the new one.

    Secrets in a text are hidden. OSError when it cannot be written; what was there is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open_new(temporary) as file:
            file.writelines(_pieces(content))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _pieces(content: Content) -> Iterator[bytes]:
    for piece in [content] if isinstance(content, str | bytes) else content:
        yield piece if isinstance(piece, bytes) else redacted_file(piece).encode("utf-8", "backslashreplace")


def write_at(path: Path, content: Content) -> None:
    """The same at a path that the user named: links are followed, and what is no file (`/dev/stdout`) is written to."""
    place = path.resolve()
    if place.exists() and not place.is_file() and not place.is_dir():
        with place.open("wb") as file:
            file.writelines(_pieces(content))
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, content)


def open_new(path: Path, mode: int = 0o666) -> IO[bytes]:
    """A file that is made now, in the place of what goes by its name; not of a folder. OSError."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return os.fdopen(os.open(path, _NEW, mode), "wb")


def open_end(path: Path, *, is_made: bool = False) -> IO[bytes]:
    """A file of ours to which more is added; one that has become a link is none. `is_made` where it need not be there.

    Raises OSError.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if is_made else 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab")
