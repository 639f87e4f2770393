"""Real processes: their output goes to the log, their end is told, and nothing of them is ever left behind.

Every descendant holds the write end of a pipe: when its read end reaches the end of file, all of them are dead.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from samples import server

from pytest_llmperf.boundary.secrets import remember
from pytest_llmperf.errors import ServerError
from pytest_llmperf.servers.process.process import Command, free_port, run_process, wait_until
from pytest_llmperf.servers.process.supervisor import Filter
from pytest_llmperf.servers.start import start_server

PATIENCE_S = 60.0
SLEEP = "import time; print('up', flush=True); time.sleep(3600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
# A child and a grandchild; the grandchild leaves the session and is orphaned.
FAMILY = f"""
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", '''{STUBBORN}'''], close_fds=False)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {STUBBORN.replace("; ", chr(10) + "        ")}
    os._exit(0)
{SLEEP.replace("; ", chr(10))}
"""


def python(code: str, *args: str, **env: str) -> Command:
    return Command((sys.executable, "-c", code, *args), env, "python")


class Pipe:
    """Its write end goes to a server and all that it starts."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_inheritable(self.write, True)

    def released(self) -> bool:
        """Whether everyone who had the write end is gone, this process included."""
        os.close(self.write)
        ready, _, _ = select.select([self.read], [], [], PATIENCE_S)
        return bool(ready) and os.read(self.read, 1) == b""


@pytest.fixture
def log(tmp_path):
    return tmp_path / "servers" / "a.log"


def wait_for(log: Path, text: str, times: int = 1) -> None:
    wait_until(lambda: log.exists() and log.read_text().count(text) >= times, None, "test", PATIENCE_S)


def ended(process) -> bool:
    return process.exit_code() is not None


def test_output_of_both_kinds_is_in_the_log(log):
    code = "import sys, os; print('out', os.environ['NAME']); print('err', sys.argv[1], file=sys.stderr)"
    with run_process("a", python(code, "x", NAME="y"), log) as process:
        wait_until(lambda: ended(process), None, "a", PATIENCE_S)
    assert sorted(log.read_text().splitlines()) == ["err x", "out y"]


@pytest.mark.parametrize(
    ("code", "exit_code", "shown"),
    [
        ("raise SystemExit(3)", 3, "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", 137, "exit code 137 (SIGKILL)"),
        ("import os; os.abort()", 134, "exit code 134 (SIGABRT)"),
        ("pass", 0, "exit code 0"),
    ],
)
def test_an_end_before_readiness(log, code, exit_code, shown):
    with run_process("a", python(code), log) as process:
        with pytest.raises(ServerError, match="server 'a' ended before it was ready") as error:
            wait_until(lambda: False, process, "a", PATIENCE_S)
        assert process.exit_code() == exit_code
    assert shown in str(error.value)
    assert f"log: {log}" in str(error.value)


def test_an_error_carries_the_first_error_of_the_log_without_secrets(log):
    remember("hunter2")
    command = Command((sys.executable, "-c", "raise ValueError('bad key hunter2')"), {}, "python")
    with run_process("a", command, log) as process:
        with pytest.raises(ServerError) as error:
            wait_until(lambda: False, process, "a", PATIENCE_S)
        assert "hunter2" not in repr(process)
    assert "first error in its log: ValueError: bad key ***; log:" in str(error.value)
    assert "hunter2" not in log.read_text()


def test_a_program_that_does_not_exist(log):
    with (
        run_process("a", Command(("/no/such/program",), {}, "no"), log) as process,
        pytest.raises(ServerError, match=r"exit code 1; first error in its log: FileNotFoundError: .*/no/such/program"),
    ):
        wait_until(lambda: False, process, "a", PATIENCE_S)


def test_too_slow_to_be_ready(log):
    with (
        run_process("a", python(SLEEP), log, 0.1) as process,
        pytest.raises(ServerError, match=r"server 'a' was not ready within 0\.01 s \(ready_timeout\); log: "),
    ):
        wait_until(lambda: False, process, "a", 0.01)
    with pytest.raises(
        ServerError, match=r"server 'far' at its URL was not ready within 0\.01 s \(ready_timeout\): refused"
    ):
        wait_until(lambda: False, None, "server 'far' at its URL", 0.01, lambda: ": refused")


def test_ready_at_last(log):
    with run_process("a", python(SLEEP), log, 5) as process:
        wait_until(lambda: "up" in log.read_text(), process, "a", PATIENCE_S)
        assert process.exit_code() is None
    assert process.exit_code() == 128 + signal.SIGTERM


def test_a_server_may_end_in_its_own_way_on_term(log):
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); {SLEEP}"
    with run_process("a", python(code), log, PATIENCE_S) as process:
        wait_for(log, "up")
    assert process.exit_code() == 7


def test_what_ignores_term_is_killed(log):
    with run_process("a", python(STUBBORN), log, 0.1) as process:
        wait_for(log, "up")
    assert process.exit_code() == 128 + signal.SIGKILL


def family(pipe: Pipe) -> Command:
    """Opens the pipe by its path in /proc, since descriptors do not pass through the supervisor; then has children."""
    code = f"import os, sys; os.set_inheritable(os.open(sys.argv[1], os.O_WRONLY), True)\n{FAMILY}"
    return python(code, f"/proc/{os.getpid()}/fd/{pipe.write}")


def test_all_descendants_die_with_the_server(log):
    pipe = Pipe()
    with run_process("a", family(pipe), log, 0.1):
        wait_for(log, "up", times=3)
    assert pipe.released()


def test_all_descendants_die_when_the_server_ends_by_itself(log):
    pipe = Pipe()
    code = f"{family(pipe).argv[2].rpartition('import time')[0]}import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with run_process("a", python(code, family(pipe).argv[3]), log, 0.1) as process:
        wait_until(lambda: ended(process), None, "a", PATIENCE_S)
        assert pipe.released()


PARENT = """
import sys, time
from pathlib import Path
from pytest_llmperf.servers.process.process import Command, run_process
with run_process("a", Command((sys.executable, "-c", *sys.argv[2:]), {}, "python"), Path(sys.argv[1]), 0.1):
    time.sleep(3600)
"""
FORKING = PARENT.replace("    time.sleep", "    import os; os.fork() or os.close(1)\n    time.sleep")


@contextlib.contextmanager
def parent(code: str, log: Path, pipe: Pipe):
    """A Python that holds a server with a family."""
    started = subprocess.Popen(
        [sys.executable, "-c", code, str(log), *family(pipe).argv[2:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(log, "up", times=3)
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.communicate()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_survives_the_parent(log, signum):
    pipe = Pipe()
    with parent(PARENT, log, pipe) as started:
        os.killpg(started.pid, signum)
        assert pipe.released()


def test_nothing_survives_the_parent_though_a_fork_of_it_lives(log):
    pipe = Pipe()
    with parent(FORKING, log, pipe) as started:
        os.kill(started.pid, signal.SIGKILL)
        assert pipe.released()


SHM = Path("/dev/shm")
SEGMENT = """
import mmap, os, sys
kept = []
for name in sys.argv[1:]:
    fd = os.open("/dev/shm/" + name, os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 4096)
    kept.append(mmap.mmap(fd, 4096))
print("up", flush=True)
"""


@pytest.mark.skipif(not os.access(SHM, os.W_OK), reason="needs /dev/shm")
def test_shared_memory_left_behind_is_removed_if_the_server_had_it_and_nobody_has(log):
    mark = uuid.uuid4().hex
    prefixes = {"left": "psm_", "other name": "mine-", "in use": "psm_", "somebody's": "psm_"}
    names = {what: f"{prefix}{mark}-{n}" for n, (what, prefix) in enumerate(prefixes.items())}
    mapped = [names["left"], names["other name"], names["in use"]]
    keeper = [sys.executable, "-c", f"{SEGMENT}sys.stdin.read()", names["in use"]]
    try:
        with subprocess.Popen(keeper, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outsider:
            assert outsider.stdin
            assert outsider.stdout
            assert outsider.stdout.readline() == b"up\n"
            with run_process("a", python(f"{SEGMENT}import signal\nsignal.pause()", *mapped), log) as process:
                wait_until(lambda: log.read_text() == "up\n", process, "a", PATIENCE_S)
                (SHM / names["somebody's"]).touch()
            kept = [what for what, name in names.items() if (SHM / name).exists()]
            outsider.stdin.close()
        assert kept == ["other name", "in use", "somebody's"]
    finally:
        for name in names.values():
            (SHM / name).unlink(missing_ok=True)


def test_free_ports_are_free():
    assert len({free_port() for _ in range(20)}) > 1


def test_replicas_and_restarts_have_logs_of_their_own(tmp_path):
    config = server("{engine: embedded, replicas: 2, args: {step: modelled}}")
    logs = []
    for _ in range(2):
        with start_server(config, tmp_path, ()) as up:
            assert len({target.url for target in up.targets}) == 2
            up.check_alive()
            logs += [path.name for path in up.logs]
    assert logs == ["a-1.log", "a-2.log", "a-1.2.log", "a-2.2.log"]


def test_a_relaunched_server_is_another_one(tmp_path):
    with start_server(server("{engine: embedded, args: {step: modelled}}"), tmp_path, ()) as up:
        (first,), url = up.processes, up.url
        assert up.relaunch()
        (second,) = up.processes
        assert first.exit_code() is not None
        assert second.exit_code() is None
        assert up.url != url
        up.check_alive()
        assert up.launches == 2
    assert second.exit_code() is not None


def test_a_server_that_dies_is_told_apart_from_one_that_is_slow(tmp_path):
    with start_server(server("{engine: embedded}"), tmp_path, ()) as up:
        (process,) = up.processes
        children = Path(f"/proc/{process.handle.pid}/task/{process.handle.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        wait_until(lambda: ended(process), None, "a", PATIENCE_S)
        with pytest.raises(ServerError, match=r"server 'a' died; exit code 137 \(SIGKILL\)"):
            up.check_alive()


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_a_log_is_filtered_in_pieces_of_any_size(size):
    data = b"hunter2 hunter hunter22\nhunter1\n\x00 hunt"
    found = Filter(["hunter2", "hunter"])
    pieces = [found.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert b"".join([*pieces, found.end()]) == b"*** *** ***2\n***1\n\x00 hunt"


def test_what_cannot_be_a_secret_is_written_at_once():
    assert Filter(["hunter2"]).feed(b"listening\n") == b"listening\n"


def test_the_command_line_is_nobodys_to_read(log):
    remember("hunter2")
    with run_process("a", python("import time; print('up', flush=True); time.sleep(60)"), log, 0.1) as process:
        wait_for(log, "up")  # right after its start, a process has no command line yet
        words = Path(f"/proc/{process.handle.pid}/cmdline").read_bytes()
    assert words.split(b"\0")[-2].endswith(b"supervisor.py")


def test_a_file_of_secrets_is_gone_with_its_server(log, tmp_path):
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text("x")
    command = Command((sys.executable, "-c", SLEEP), {}, "python", secret_file=str(secrets))
    with run_process("a", command, log, 5):
        assert secrets.exists()
    assert not secrets.exists()
