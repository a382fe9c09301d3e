"""A body, decompressed as it arrives and never beyond a bound.

A bomb of 10 kB that unpacks to 10 GB costs what the bound allows.
"""

from __future__ import annotations

import zlib

_PIECE = 64 * 1024


class TooLarge(Exception):
    """The body has more bytes than allowed."""


class Undecodable(Exception):
    """The body isn't what its Content-Encoding says, or that is one we didn't ask for."""


class BoundedBody:
    """Collects a body of at most `max_bytes`, counted both as sent and as unpacked.

    `truncate`: what is beyond is dropped (`full` becomes True) instead of raising `TooLarge`.
    """

    def __init__(self, encoding: str, max_bytes: int, *, truncate: bool = False) -> None:
        names = [name for name in (part.strip().lower() for part in encoding.split(",")) if name]
        names = [name for name in names if name != "identity"]
        if len(names) > 1 or (names and names[0] not in ("gzip", "x-gzip", "deflate")):
            raise Undecodable(f"its Content-Encoding is {encoding[:60]!r}, asked for was gzip or deflate")
        self._name = names[0].removeprefix("x-") if names else ""
        self._max_bytes = max_bytes
        self._truncate = truncate
        self._raw_bytes = 0
        self._body = bytearray()
        self._unpacker: zlib._Decompress | None = None
        self.full = False

    @property
    def received_bytes(self) -> int:
        """Bytes as they came over the wire."""
        return self._raw_bytes

    def feed(self, data: bytes) -> None:
        """Takes the next piece as it was sent. Raises `TooLarge` and `Undecodable`."""
        if self.full:
            return
        self._raw_bytes += len(data)
        if not self._name:
            self._add(data)
            return
        if self._raw_bytes > self._max_bytes and not self._truncate:
            raise TooLarge
        try:
            self._unpack(data)
        except zlib.error:
            raise Undecodable(f"its body isn't the {self._name} that it says") from None

    def finish(self) -> bytes:
        """The body. Raises `Undecodable` where a compressed one ended too soon."""
        if self._unpacker is not None and not self._unpacker.eof and not self.full:
            raise Undecodable(f"its {self._name} body ended too soon")
        return bytes(self._body)

    def _unpack(self, data: bytes) -> None:
        while data and not self.full:
            if self._unpacker is None:
                self._unpacker = zlib.decompressobj(self._window(data))
            elif self._unpacker.eof:
                if self._name != "gzip" or not data.startswith(b"\x1f\x8b"):
                    return  # padding after the end, which browsers ignore too
                self._unpacker = zlib.decompressobj(31)
            self._add(self._unpacker.decompress(data, _PIECE))
            data = self._unpacker.unconsumed_tail or self._unpacker.unused_data

    def _window(self, data: bytes) -> int:
        if self._name == "gzip":
            return 31
        # "deflate" is zlib by the standard (RFC 9110, 8.4.1.2), and bare by the habit of some servers.
        return 15 if data[0] & 0x0F == 8 else -15

    def _add(self, piece: bytes) -> None:
        room = self._max_bytes - len(self._body)
        if len(piece) > room:
            if not self._truncate:
                raise TooLarge
            self.full = True
        self._body += piece[:room]
