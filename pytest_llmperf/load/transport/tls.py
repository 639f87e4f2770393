"""TLS over bytes that someone else reads and sends, so that the kernel's receive timestamps stay available."""

from __future__ import annotations

import ssl


class TlsSession:
    """One connection's TLS state. Errors are ssl.SSLError; a closed peer is `eof`."""

    def __init__(self, hostname: str, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self.eof = False

    def handshake(self, received: bytes) -> bool:
        """Continues with `received`; True if the handshake is finished. `to_send` may hold bytes either way."""
        self._incoming.write(received)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def decrypt(self, received: bytes) -> bytes:
        """The plain bytes that `received` completes; may be none."""
        self._incoming.write(received)
        plain: list[bytes] = []
        try:
            while piece := self._ssl.read(65536):
                plain.append(piece)
            self.eof = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.eof = True
        return b"".join(plain)

    def encrypt(self, plain: bytes) -> bytes:
        view = memoryview(plain)
        while view:
            view = view[self._ssl.write(view) :]
        return self._outgoing.read()

    def to_send(self) -> bytes:
        """Bytes of the protocol's own: handshake, key updates."""
        return self._outgoing.read()
