"""Whose a process is, and what one that lives long uses more and more of."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil

from egrc_mega.soak import processes
from egrc_mega.soak.processes import Growth, running, server, working_in

READ_ON = "import sys\nfor line in sys.stdin: exec(line); print(flush=True)"


def test_a_process_is_found_by_the_folder_it_works_in_and_a_server_by_its_log(tmp_path: Path) -> None:
    with (
        (tmp_path / "server_1.log").open("w") as log,
        subprocess.Popen(["sleep", "1000"], cwd=tmp_path, stdout=log) as own,
    ):
        try:
            assert [process.pid for process in working_in(tmp_path)] == [own.pid]
            assert working_in(tmp_path.parent) == []
            found = server(tmp_path, 1)
            assert found is not None and found.pid == own.pid
            assert server(tmp_path, 0) is None
        finally:
            own.kill()


def test_a_process_is_found_by_the_module_it_runs(tmp_path: Path) -> None:
    for module in ("a", "b"):
        (tmp_path / f"{module}.py").write_text("import time; time.sleep(1000)")
    with ExitStack() as stack:
        started = {}
        for module in ("a", "b"):
            started[module] = subprocess.Popen([sys.executable, "-m", module], cwd=tmp_path)
            stack.callback(started[module].kill)
        for module, process in started.items():
            found = running(tmp_path, module, "other", without=0)
            assert found is not None and found.pid == process.pid
        assert running(tmp_path, "a", "other", without=started["a"].pid) is None
        assert running(tmp_path, "c", "other", without=0) is None


def test_a_process_that_opens_more_and_more_files_is_told_and_one_that_does_not_is_not() -> None:
    command, pipe = [sys.executable, "-c", READ_ON], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as leaky:
        assert leaky.stdin and leaky.stdout
        growth, process = Growth(), psutil.Process(leaky.pid)
        growth.look("leaky", process)
        growth.look("leaky", process)
        assert growth.excess() == []
        for line in (
            f"files = [open('/dev/null') for _ in range({processes.FILES_ALLOWED + 1})]",
            f"room = b'x' * {2 * processes.BYTES_ALLOWED}",
        ):
            print(line, file=leaky.stdin, flush=True)
            leaky.stdout.readline()
            growth.look("leaky", process)
            (told,) = growth.excess()
            assert told.startswith(f"leaky (process {leaky.pid}) has ")
            print("files = []", file=leaky.stdin, flush=True)
            leaky.stdout.readline()
        assert growth.largest()["leaky"]["resident_bytes"] > processes.BYTES_ALLOWED
        assert growth.largest()["leaky"]["looks"] == 4
        leaky.stdin.close()
    growth.look("leaky", process)  # gone, and forgiven
    assert growth.largest()["leaky"]["looks"] == 4
