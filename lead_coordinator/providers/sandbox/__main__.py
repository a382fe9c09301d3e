"""`python -m lead_coordinator.providers.sandbox`: serves until it is told to stop.

Once it listens it prints one line, `sandbox provider: http://127.0.0.1:PORT`, and writes the address to
`--url-file`, if one is named. Exit codes: 0 after SIGINT or SIGTERM, 2 for a wrong option or a port in use.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from lead_coordinator.providers.sandbox.latency import PROFILES
from lead_coordinator.providers.sandbox.server import Sandbox, SandboxConfig

HOST = "127.0.0.1"
# Longer than any client keeps an idle connection, so that it is never we who close one that is about to be
# used.
KEEP_ALIVE_SECONDS = 75


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # uvicorn stops on SIGTERM and then raises it again, for the handler that was there before.
    signal.signal(signal.SIGTERM, _leave)
    try:
        listener = _listen(options.port)
    except OSError as error:
        sys.stderr.write(
            f"--port {options.port} can't be used: {error.strerror}. Name another, or 0 for any free one.\n"
        )
        return 2
    sandbox = Sandbox(
        SandboxConfig(
            latency=options.latency,
            seed=options.seed,
            gemini_limit=options.gemini_limit,
            openai_limit=options.openai_limit,
            window_seconds=options.window_seconds,
            call_log=options.call_log,
        )
    )
    logging.getLogger("uvicorn.error").addFilter(_expected)
    config = uvicorn.Config(
        sandbox.app(),
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    url = f"http://{HOST}:{listener.getsockname()[1]}"
    if options.url_file is not None:
        _write_whole(options.url_file, url)
    sys.stdout.write(f"sandbox provider: {url}\n")
    sys.stdout.flush()
    try:
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    except KeyboardInterrupt:
        pass
    finally:
        sandbox.log.close()
    return 0


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lead_coordinator.providers.sandbox",
        description="A local server that speaks the wire protocols of Gemini and OpenAI.",
    )
    parser.add_argument("--port", type=_whole(0, 65535), default=0, help="0 (the default): any free port")
    parser.add_argument(
        "--latency", choices=sorted(PROFILES), default="fast", help="fast: median 0.3 s; real: median 4 s"
    )
    parser.add_argument("--seed", type=int, default=0, help="texts, latencies and faults follow from it")
    parser.add_argument("--call-log", type=Path, help="JSONL file to which every call is appended")
    parser.add_argument(
        "--gemini-limit", type=_whole(1, 100_000), default=60, help="requests in any 60 seconds"
    )
    parser.add_argument(
        "--openai-limit", type=_whole(1, 100_000), default=50, help="requests in any 60 seconds"
    )
    parser.add_argument(
        "--window-seconds", type=_seconds, default=60.0, help="length of the window, for tests"
    )
    parser.add_argument(
        "--url-file", type=Path, help="file into which the address is written once it listens"
    )
    return parser


def _whole(low: int, high: int):  # type: ignore[no-untyped-def]  # argparse takes any callable
    def parse(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text} must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds, more than 0 and at most 3600")
    return value


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _write_whole(path: Path, text: str) -> None:
    """The file appears with its whole content or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _expected(record: logging.LogRecord) -> bool:
    """A response that was cut off on purpose is no error of the server."""
    return "without completing response" not in record.getMessage()


if __name__ == "__main__":
    sys.exit(main())
