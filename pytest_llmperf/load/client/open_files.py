"""Room for many connections: the process's limit of open files."""

from __future__ import annotations

import os
import resource

from pytest_llmperf.errors import ClientError

_MARGIN = 32
"""Files that are opened meanwhile: logs, reports, sockets of the server's health."""


def raise_file_limit(wanted: int, *, required: int) -> None:
    """Raises the soft limit towards the hard one, so that `wanted` connections can be open at once.

    ClientError when not even `required` ones can.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = _open_files() + _MARGIN
    if soft == resource.RLIM_INFINITY or wanted + others <= soft:
        return
    soft = wanted + others if hard == resource.RLIM_INFINITY else min(wanted + others, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if required + others > soft:
        raise ClientError(
            f"this load needs {required} connections at once ({required + others} open files), but the hard limit of "
            f"open files is {hard}; raise it (`ulimit -Hn`, LimitNOFILE, --ulimit nofile) or lower the load"
        )


def _open_files() -> int:
    """Number of open files; without /proc, which /dev/fd leads to, more than a pytest usually has."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 64
