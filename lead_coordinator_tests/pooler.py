"""A transaction pooler, as pgbouncer and Supabase's are, small enough for a test.

It keeps a few connections to the server and gives a client the next one for each transaction, in turn, so
that whatever relies on its session (a prepared statement, a setting, a lock) meets another one and shows.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

PORT = 5432
PROTOCOL = 196608  # 3.0
Message = tuple[bytes, bytes]


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data


def _read_message(connection: socket.socket) -> Message:
    kind = _read(connection, 1)
    (length,) = struct.unpack("!i", _read(connection, 4))
    return kind, _read(connection, length - 4)


def _pack(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


class TransactionPooler:
    """Listens on a socket in `folder`, in front of the server of `url` (a socket, trust authentication)."""

    def __init__(self, url: str, folder: Path, connections: int = 2) -> None:
        parts = urlsplit(url)
        (self._server_folder,) = parse_qs(parts.query)["host"]
        self._user, self._database = parts.username or "", parts.path.lstrip("/")
        self.url = f"postgresql://{self._user}@/{self._database}?host={folder}"
        self._greeting = b""
        self._idle: Queue[socket.socket] = Queue()
        self._servers = [self._connect() for _ in range(connections)]
        for server in self._servers:
            self._idle.put(server)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / f".s.PGSQL.{PORT}"))
        self._listener.listen()
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in (self._listener, *self._clients, *self._servers):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _connect(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._server_folder}/.s.PGSQL.{PORT}")
        named = {"user": self._user, "database": self._database, "application_name": "lead-coordinator"}
        body = b"".join(f"{name}\0{value}\0".encode() for name, value in named.items()) + b"\0"
        server.sendall(struct.pack("!ii", len(body) + 8, PROTOCOL) + body)
        self._greeting = b""
        kind = b""
        while kind != b"Z":
            kind, answer = _read_message(server)
            assert kind != b"E", answer
            self._greeting += _pack(kind, answer)
        return server

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # until the listener is closed
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            (length,) = struct.unpack("!i", _read(client, 4))
            _read(client, length - 4)
            client.sendall(self._greeting)
            while True:
                first = _read_message(client)
                if first[0] == b"X":
                    return
                server = self._idle.get()
                self._transaction(client, server, first)
                self._idle.put(server)

    @staticmethod
    def _transaction(client: socket.socket, server: socket.socket, message: Message) -> None:
        """From a client's first message until the server says that it is in no transaction."""
        while True:
            server.sendall(_pack(*message))
            if message[0] in (b"Q", b"S"):  # a query, or the end of a batch of the extended protocol
                kind = b""
                while kind != b"Z":
                    kind, body = _read_message(server)
                    client.sendall(_pack(kind, body))
                if body == b"I":
                    return
            message = _read_message(client)
