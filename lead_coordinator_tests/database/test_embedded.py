"""The embedded server: one owner, data that survive every kind of death, clear words where it can't start."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from lead_coordinator.database.connection import Database
from lead_coordinator.database.embedded import DATABASE, ROLE, EmbeddedServer
from lead_coordinator.errors import EmbeddedServerError, ServerOwned

# Owns the folder named by its argument until its standard input ends.
OWNER = """
import sys
from pathlib import Path
from lead_coordinator.database.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), durable=False)
server.start()
print(server.pid, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lc-e-"))
    yield folder / "postgres"
    shutil.rmtree(folder)


@pytest.fixture
def server(data_dir: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(data_dir, durable=False)
    yield server
    server.stop()


@pytest.fixture
def other_owner(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Another process that owns the server, and the server."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    yield owner, psutil.Process(int(owner.stdout.readline()))
    owner.communicate()


def remember(url: str, what: str) -> None:
    with Database(url) as db:
        db.execute("CREATE TABLE IF NOT EXISTS remembered (what text)")
        db.execute("INSERT INTO remembered VALUES (%s)", [what])


def remembered(url: str) -> list[str]:
    with Database(url) as db:
        return [row["what"] for row in db.rows("SELECT what FROM remembered ORDER BY what")]


def test_data_are_kept_across_starts(server: EmbeddedServer, data_dir: Path) -> None:
    remember(server.start(), "one")
    pid = server.pid
    assert pid is not None
    server.stop()
    assert not psutil.pid_exists(pid), "stop leaves no process behind"
    assert EmbeddedServer.running_url(data_dir) is None
    assert remembered(server.start()) == ["one"]


def test_the_platform_is_an_ordinary_role_that_owns_its_database(server: EmbeddedServer) -> None:
    with Database(server.start()) as db:
        row = db.row(
            "SELECT current_user AS role, r.rolsuper, r.rolbypassrls, d.datdba::regrole::text AS owner"
            " FROM pg_roles AS r, pg_database AS d"
            " WHERE r.rolname = current_user AND d.datname = current_database()"
        )
    assert row == {"role": ROLE, "rolsuper": False, "rolbypassrls": False, "owner": ROLE}
    with psycopg.connect(server.admin_url) as admin:
        assert admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
            True,
        )


def test_it_listens_on_a_private_socket_only(server: EmbeddedServer, data_dir: Path) -> None:
    with Database(server.start()) as db:
        rows = db.rows(
            "SELECT name, setting FROM pg_settings"
            " WHERE name IN ('listen_addresses', 'unix_socket_permissions', 'TimeZone', 'server_encoding')"
        )
    assert {row["name"]: row["setting"] for row in rows} == {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
    }
    assert data_dir.stat().st_mode & 0o077 == 0, "nobody else may enter the data folder"


def test_a_durable_server_syncs_to_disk(data_dir: Path) -> None:
    with EmbeddedServer(data_dir) as server, Database(server.url) as db:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        assert [db.row(f"SHOW {name}") for name in names] == [{name: "on"} for name in names]


def test_others_find_the_running_server(server: EmbeddedServer, data_dir: Path) -> None:
    assert EmbeddedServer.running_url(data_dir) is None
    url = server.start()
    assert EmbeddedServer.running_url(data_dir) == url
    assert url.startswith(f"postgresql://{ROLE}@/{DATABASE}?host=")


def test_a_second_owner_is_refused_and_told_who_the_first_is(
    other_owner: tuple[subprocess.Popen[str], psutil.Process], data_dir: Path
) -> None:
    owner, server = other_owner
    with pytest.raises(ServerOwned, match=f"owned by process {owner.pid}: stop that one first"):
        EmbeddedServer(data_dir).start()
    assert server.is_running(), "the first owner's server goes on"


def test_a_second_owner_in_the_same_process_is_refused(server: EmbeddedServer, data_dir: Path) -> None:
    url = server.start()
    with pytest.raises(ServerOwned, match="already owned by this process"):
        EmbeddedServer(data_dir).start()
    with pytest.raises(EmbeddedServerError, match="already started"):
        server.start()
    remember(url, "still there")


def test_the_server_ends_with_an_owner_that_was_killed_and_the_next_owner_goes_on(
    other_owner: tuple[subprocess.Popen[str], psutil.Process], data_dir: Path, server: EmbeddedServer
) -> None:
    owner, postmaster = other_owner
    url = EmbeddedServer.running_url(data_dir)
    assert url is not None
    remember(url, "before the kill")
    owner.kill()
    postmaster.wait(30)
    assert remembered(server.start()) == ["before the kill"]


def test_a_server_left_over_by_a_dead_owner_is_shut_down_first(
    data_dir: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel doesn't tell the server of its owner's death, the next owner ends it."""
    leftover = EmbeddedServer(data_dir, durable=False)
    remember(leftover.start(), "by the dead owner")
    process = leftover._process
    assert process is not None
    leftover._process = None  # as if the owner had died without a word: its lock is gone, the server isn't
    leftover._disown()
    assert remembered(server.start()) == ["by the dead owner"]
    assert process.wait(10) == 0, "it was shut down cleanly"


def test_a_crash_of_the_server_loses_nothing_that_was_committed(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    remember(server.start(), "committed")
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    postmaster.kill()  # its backends outlive it for a moment, and hold its shared memory
    postmaster.wait(60)
    assert server.pid is None, "a dead server has no process id"
    assert (data_dir / "postmaster.pid").exists()
    server.stop()
    with EmbeddedServer(data_dir) as again:
        assert remembered(again.url) == ["committed"]


def test_a_pid_file_whose_number_was_given_to_another_program_is_no_obstacle(
    server: EmbeddedServer, data_dir: Path
) -> None:
    server.start()
    server.stop()
    owner = data_dir.stat()
    other = subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, user=owner.st_uid if os.geteuid() == 0 else None, cwd="/"
    )
    try:
        pid_file = data_dir / "postmaster.pid"
        pid_file.write_text(f"{other.pid}\n{data_dir}\n1700000000\n5432\n{data_dir}\n\n  0 0\nready   \n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        assert EmbeddedServer.running_url(data_dir) is None
        remember(server.start(), "started")
        assert other.poll() is None, "the other program is left alone"
    finally:
        other.communicate()


def test_another_major_version_is_refused_with_what_to_do(server: EmbeddedServer, data_dir: Path) -> None:
    server.start()
    server.stop()
    (data_dir / "PG_VERSION").write_text("16\n")
    with pytest.raises(
        EmbeddedServerError, match=r"PostgreSQL 16, .* carries 18: dump it .* or move it away"
    ):
        server.start()
    (data_dir / "PG_VERSION").write_text("18\n")
    server.start()


def test_a_folder_that_isnt_a_database_is_left_alone(server: EmbeddedServer, data_dir: Path) -> None:
    data_dir.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data_dir, "nobody")
    (data_dir / "thesis.txt").write_text("years of work")
    with pytest.raises(EmbeddedServerError, match="isn't a PostgreSQL data folder: move it away"):
        server.start()
    assert (data_dir / "thesis.txt").read_text() == "years of work"


def test_a_home_that_cant_hold_data_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        EmbeddedServerError, match=r"/file can't hold the embedded server's data \(.*set LEAD_HOME"
    ):
        EmbeddedServer(tmp_path / "file" / "postgres").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to root")
def test_a_data_folder_of_root_is_refused_with_what_to_do(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "PG_VERSION").write_text("18\n")
    with pytest.raises(EmbeddedServerError, match="belongs to root, and PostgreSQL doesn't run as root"):
        EmbeddedServer(data_dir).start()


def test_an_initdb_that_died_in_the_middle_is_no_obstacle(server: EmbeddedServer, data_dir: Path) -> None:
    half = data_dir.with_name(data_dir.name + ".new")
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    remember(server.start(), "whole")
    assert not half.exists()


def test_a_path_too_long_for_a_socket_gets_a_short_one(data_dir: Path) -> None:
    deep = data_dir.parent / ("a-rather-long-name-" * 6) / "postgres"
    with EmbeddedServer(deep, durable=False) as server:
        remember(server.url, "reached")
        socket_dir = Path(server.url.partition("host=")[2])
        assert socket_dir.parent == Path(tempfile.gettempdir())
        assert socket_dir.stat().st_mode & 0o777 == 0o700, "only the server's account may reach it"
        assert EmbeddedServer.running_url(deep) == server.url
    shutil.rmtree(socket_dir)


def test_a_server_that_cant_start_says_why_and_gives_the_folder_up(data_dir: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"didn't start: .*shared_buffers"):
        EmbeddedServer(data_dir, durable=False, configuration={"shared_buffers": "lots"}).start()
    with EmbeddedServer(data_dir, durable=False) as server:
        remember(server.url, "better")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account to be refused by")
def test_as_root_the_server_runs_as_an_account_without_rights(server: EmbeddedServer) -> None:
    server.start()
    assert server.pid is not None
    process = psutil.Process(server.pid)
    assert 0 not in process.uids()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_an_ordinary_user_runs_it_as_itself_and_a_stranger_is_refused(data_dir: Path) -> None:
    python, environ = python_of_an_ordinary_user()
    data_dir.parent.chmod(0o777)
    command = [python, "-c", OWNER, str(data_dir)]
    done = subprocess.run(
        command,
        user="nobody",
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert data_dir.owner() == "nobody"
    shutil.chown(data_dir, 12345)
    done = subprocess.run(command, user="nobody", env=environ, capture_output=True, text=True, check=False)
    assert f"{data_dir} belongs to user 12345, and this process runs as nobody" in done.stderr


def python_of_an_ordinary_user() -> tuple[str, dict[str, str]]:
    """A Python with our packages that the account nobody can run; ours may lie in root's home."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [python, "-c", "import lead_coordinator.database.embedded"]
        try:
            if (
                subprocess.run(probe, user="nobody", env=environ, capture_output=True, check=False).returncode
                == 0
            ):
                return python, environ
        except OSError:
            continue
    pytest.skip("the account nobody can't run a Python with our packages here")


def test_ctrl_c_in_the_owners_terminal_doesnt_reach_the_server(server: EmbeddedServer) -> None:
    server.start()
    assert server.pid is not None
    assert os.getpgid(server.pid) != os.getpgid(0)
