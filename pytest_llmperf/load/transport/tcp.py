"""Facts of the kernel on a TCP connection: losses on the way to the server and on the way back. Linux only."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

# struct tcp_info of linux/tcp.h only ever grows at its end.
_RETRANSMITTED = 100
_OUT_OF_ORDER = 224
_LENGTH = 228
_U32 = struct.Struct("@I")


class TcpLosses(NamedTuple):
    """Segments of one or more connections; None where the kernel does not report them."""

    retransmitted: int | None
    """Segments of ours that were sent again: a request arrived late."""
    out_of_order: int | None
    """Segments of the server's after a gap: tokens were lost on the way and arrived late."""

    def plus(self, other: TcpLosses) -> TcpLosses:
        return TcpLosses(_sum(self.retransmitted, other.retransmitted), _sum(self.out_of_order, other.out_of_order))


NO_LOSSES = TcpLosses(0, 0)


def tcp_losses(sock: socket.socket) -> TcpLosses:
    """The connection's losses since it was opened. Call before closing."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
    except (AttributeError, OSError):
        return TcpLosses(None, None)
    return TcpLosses(_field(info, _RETRANSMITTED), _field(info, _OUT_OF_ORDER))


def _field(info: bytes, offset: int) -> int | None:
    """An unsigned number of TCP_INFO; None in a kernel that is older than the field."""
    if len(info) < offset + _U32.size:
        return None
    value: int = _U32.unpack_from(info, offset)[0]
    return value


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
