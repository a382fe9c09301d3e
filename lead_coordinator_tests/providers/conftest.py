"""A sandbox server a test module: a real process on a free port, driven by the real SDKs."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lead_coordinator.providers.sandbox.admin import SandboxAdmin

START_SECONDS = 20


@dataclass(frozen=True)
class RunningSandbox:
    url: str
    call_log: Path
    admin: SandboxAdmin
    process: subprocess.Popen[str]

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"


StartSandbox = Callable[..., RunningSandbox]


@pytest.fixture(scope="module")
def start_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartSandbox]:
    """Starts a sandbox with the options given (`seed=1` means `--seed 1`); ended with the module."""
    started: list[subprocess.Popen[str]] = []

    def start(**options: object) -> RunningSandbox:
        folder = tmp_path_factory.mktemp("sandbox")
        command = [sys.executable, "-m", "lead_coordinator.providers.sandbox"]
        command += ["--url-file", str(folder / "url"), "--call-log", str(folder / "calls.jsonl")]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        deadline = time.monotonic() + START_SECONDS
        while not (folder / "url").exists():
            assert process.poll() is None, f"the sandbox ended at once: {process.communicate()[0]}"
            assert time.monotonic() < deadline, "the sandbox must listen within 20 seconds"
            time.sleep(0.02)
        url = (folder / "url").read_text()
        return RunningSandbox(url, folder / "calls.jsonl", SandboxAdmin(url), process)

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.communicate(timeout=10)


@pytest.fixture(scope="module")
def shared_sandbox(start_sandbox: StartSandbox) -> RunningSandbox:
    return start_sandbox(seed=7, gemini_limit=100_000, openai_limit=100_000)


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> RunningSandbox:
    """A sandbox without a limit that matters, its counts and faults at zero."""
    shared_sandbox.admin.reset()
    return shared_sandbox
