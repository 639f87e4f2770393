"""Finds out which process listens on a port of this machine: the server that was started, or a stranger."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pytest_llmperf.servers.process.supervisor import descendants

_LISTENING = "0A"
_ANYWHERE = ("00000000", "00000000000000000000000000000000")
_FORWARDERS = ("docker-proxy", "rootlessport", "conmon", "slirp4netns", "pasta", "containerd-shim")
"""Programs that listen in place of a server in a container."""
UNCHECKED = "that the server which answers is the one that was started could not be checked: /proc does not tell"


class _Listener(NamedTuple):
    address: str
    inode: str


def stranger(port: int, supervisor: int) -> str | None:
    """Names the process that listens on `port` and is not below process `supervisor`; None where ours does.

    Raises LookupError where that cannot be found out: without /proc, or where the listener is another user's, or a
    container's.
    """
    listeners = [listener for listener in _listeners() if listener.address.endswith(f":{port:04X}")]
    # An address of its own wins over any address.
    own_address = [one for one in listeners if one.address.partition(":")[0] not in _ANYWHERE]
    inodes = {one.inode for one in own_address or listeners}
    foreign = inodes - _sockets({supervisor, *descendants(supervisor)})
    if not inodes:
        raise LookupError
    if not foreign:
        return None
    for pid in _pids():
        if foreign & _sockets([pid]):
            if (name := program(pid)) in _FORWARDERS:
                raise LookupError
            return f"pid {pid} ({name})" if name else f"pid {pid}"
    raise LookupError


def _listeners() -> Iterator[_Listener]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING:
                    yield _Listener(fields[1], fields[9])


def _sockets(pids: Collection[int]) -> set[str]:
    """Inodes of the sockets that these processes have open; none of those that may not be read."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if link.startswith("socket:["):
                        found.add(link[8:-1])
    return found


def _pids() -> Iterable[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return []


def program(pid: int) -> str:
    """The name of a process's program, cut by the kernel to 15 bytes; empty where the process is gone.

    Its arguments may hold a secret of its owner.
    """
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""
