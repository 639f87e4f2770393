"""`kubectl port-forward` from the API server's side: SPDY/3.1 inside of a websocket, two streams per connection.

Only as much of both protocols as kubectl 1.31 and later use here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import mmap
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN = 1


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1(key.encode() + _MAGIC).digest()).decode()


def dictionary(kubectl: Path) -> bytes:
    """SPDY's dictionary for headers, a fixed text of 1423 bytes that every kubectl has in it."""
    with kubectl.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"\x00\x00\x00\x07options\x00\x00\x00\x04head\x00\x00\x00\x04post")
        return content[start : start + 1423]


class Tunnel:
    """One port-forward: its websocket, and a connection to the pod for each of its streams."""

    def __init__(
        self, read: BinaryIO, sock: socket.socket, words: bytes, connect: Callable[[int], socket.socket]
    ) -> None:
        self._read, self._sock, self._connect = read, sock, connect
        self._inflate = zlib.decompressobj(zdict=words)
        self._deflate = zlib.compressobj(zdict=words)
        self._writing = threading.Lock()
        self._pods: dict[int, socket.socket] = {}
        self._errors: dict[str, int] = {}
        self._buffer = b""

    def run(self) -> None:
        """Until either side ends the websocket."""
        with contextlib.suppress(OSError, EOFError, struct.error):
            while self._frame():
                pass
        for pod in self._pods.values():
            with contextlib.suppress(OSError):
                pod.shutdown(socket.SHUT_RDWR)

    def _exactly(self, count: int) -> bytes:
        found = self._read.read(count)
        if len(found) < count:
            raise EOFError
        return found

    def _message(self) -> bytes | None:
        """The content of the websocket's next frame; None where it closes."""
        first, second = self._exactly(2)
        size = second & 127
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        mask = self._exactly(4) if second & 128 else bytes(4)
        data = bytearray(self._exactly(size))
        for place in range(4):
            data[place::4] = data[place::4].translate(bytes(byte ^ mask[place] for byte in range(256)))
        opcode = first & 15
        if opcode == 8:
            return None
        if opcode == 9:
            self._websocket(bytes(data), 10)
        return b"" if opcode in (9, 10) else bytes(data)

    def _websocket(self, data: bytes, opcode: int = 2) -> None:
        size = len(data)
        long = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        long = long if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
        self._sock.sendall(bytes([128 | opcode]) + long + data)

    def _send(self, head: bytes, flags: int, data: bytes) -> None:
        with self._writing:
            self._websocket(head + bytes([flags]) + len(data).to_bytes(3, "big") + data)

    def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            message = self._message()
            if message is None:
                return None
            self._buffer += message
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _frame(self) -> bool:
        head = self._take(8)
        if head is None:
            return False
        flags, data = head[4], self._take(int.from_bytes(head[5:8], "big"))
        if data is None:
            return False
        number = int.from_bytes(head[:4], "big")
        if not head[0] & 128:
            self._to_pod(number, data, flags)
        elif head[3] == _SYN_STREAM:
            self._stream(data)
        elif head[3] == _PING:
            self._send(struct.pack(">HH", 0x8003, _PING), 0, data)
        elif head[3] == _RST_STREAM:
            self._close(int.from_bytes(data[:4], "big"))
        return head[3] != _GOAWAY or not head[0] & 128

    def _stream(self, data: bytes) -> None:
        stream = int.from_bytes(data[:4], "big")
        headers = self._headers(self._inflate.decompress(data[10:]))
        with self._writing:
            block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            reply = struct.pack(">I", stream) + block
            self._websocket(struct.pack(">HHI", 0x8003, _SYN_REPLY, len(reply)) + reply)
        if headers["streamtype"] == "error":
            self._errors[headers["requestid"]] = stream
            return
        errors = self._errors.pop(headers["requestid"], 0)
        try:
            pod = self._pods[stream] = self._connect(int(headers["port"]))
        except OSError as error:
            self._send(struct.pack(">I", errors), _FIN, f"error forwarding port {headers['port']}: {error}".encode())
            self._send(struct.pack(">I", stream), _FIN, b"")
            return
        threading.Thread(target=self._from_pod, args=(pod, stream, errors), daemon=True).start()

    def _headers(self, block: bytes) -> dict[str, Any]:
        words, at = [], 4
        while at < len(block):
            size = int.from_bytes(block[at : at + 4], "big")
            words.append(block[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return dict(zip(words[::2], words[1::2], strict=True))

    def _to_pod(self, stream: int, data: bytes, flags: int) -> None:
        pod = self._pods.get(stream)
        if pod is None:
            return
        with contextlib.suppress(OSError):
            pod.sendall(data)
            if flags & _FIN:
                pod.shutdown(socket.SHUT_WR)

    def _close(self, stream: int) -> None:
        if pod := self._pods.pop(stream, None):
            with contextlib.suppress(OSError):
                pod.shutdown(socket.SHUT_RDWR)

    def _from_pod(self, pod: socket.socket, stream: int, errors: int) -> None:
        with pod, contextlib.suppress(OSError):
            while data := pod.recv(65536):
                self._send(struct.pack(">I", stream), 0, data)
        with contextlib.suppress(OSError):
            self._send(struct.pack(">I", stream), _FIN, b"")
            self._send(struct.pack(">I", errors), _FIN, b"")
        self._pods.pop(stream, None)
