"""Small questions over HTTP and about ports, with the standard library: the supervisor stays light."""

from __future__ import annotations

import errno
import json
import socket
import urllib.error
import urllib.request
from typing import Any

# Straight to the address: a proxy that the environment names has no business between us and localhost.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str, timeout_seconds: float = 2.0) -> bool:
    """Whether a GET is answered with success."""
    try:
        with _OPENER.open(url, timeout=timeout_seconds) as response:  # http, an address of ours
            return 200 <= int(response.status) < 300
    except (OSError, ValueError):
        return False


def get_json(url: str, timeout_seconds: float = 5.0) -> Any | None:
    """The JSON that a GET answers, or None."""
    return _json(urllib.request.Request(url), timeout_seconds)  # noqa: S310 (our own address)


def graphql(web_url: str, query: str, timeout_seconds: float = 10.0) -> Any | None:
    """The `data` of a GraphQL answer of the Dagster webserver, or None."""
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(  # noqa: S310 (our own address)
        f"{web_url}/graphql", body, {"Content-Type": "application/json"}
    )
    answer = _json(request, timeout_seconds)
    return answer.get("data") if isinstance(answer, dict) else None


def _json(request: urllib.request.Request, timeout_seconds: float) -> Any | None:
    try:
        with _OPENER.open(request, timeout=timeout_seconds) as response:
            return json.load(response)
    except (OSError, ValueError):
        return None


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises OSError where the host isn't one of this machine."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            # Connections that just ended don't count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    return False
                raise
    return True


def listens(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now. Another process may take it before we do, which then shows as a part that
    can't start."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def web_url(host: str, port: int) -> str:
    """The address to open in a browser on this machine ("listen everywhere" is no place to go to)."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 (compared, not bound)
    shown = everywhere.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
