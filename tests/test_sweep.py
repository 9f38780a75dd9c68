"""A sweep gives the rows of a plain loop, whatever the workers, the order, interruptions and lost workers."""

import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from whichbackbone import figures
from whichbackbone.evidence import claims, closure, store
from whichbackbone.experiments import datasets, populations, sweep, training
from whichbackbone.models import resnet

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_code_change(monkeypatch):
    """Others may edit the package while the tests run."""
    monkeypatch.setattr(sweep, "code_version", lambda function: "0" * 12)


def square(x, seed, log=None):
    """What the tests sweep: something random, and a line in a log for each call."""
    import torch

    if log:
        with open(log, "a") as f:
            f.write(f"{x}\n")
    if x == 3:
        raise ArithmeticError("no three")
    generator = torch.Generator().manual_seed(seed)
    return dict(y=x * x, noise=torch.rand(1, generator=generator).item(), threads=torch.get_num_threads())


def slow(x, folder, seed):
    """Leaves a file when it starts and another when it ends, named by its process."""
    Path(folder, f"{os.getpid()}-{x}-start").touch()
    time.sleep(0.3)
    Path(folder, f"{os.getpid()}-{x}-end").touch()
    return dict(seed_seen=seed)


def deadly(x, seed):
    if x == 1:
        os._exit(1)
    return dict(y=x)


def surroundings(x, seed):
    """What decides how fast a worker computes: its threads, and whether it keeps the memory it has freed."""
    return dict(trim=os.environ.get("MALLOC_TRIM_THRESHOLD_"), threads=os.environ.get("OMP_NUM_THREADS"))


def values(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns="run_seconds")


def serial(function, configs, **options):
    return sweep.run(function, configs, workers=0, **options)


def test_local_cluster_equals_serial_with_a_failure_in_it():
    configs = [dict(x=x) for x in range(6)]
    rows = sweep.run(square, configs, workers=2)
    pd.testing.assert_frame_equal(values(rows), values(serial(square, configs)))
    assert rows.y.tolist()[:3] == [0, 1, 4] and rows.noise.nunique() == 5
    assert rows.status.tolist() == ["ok"] * 3 + ["ArithmeticError: no three"] + ["ok"] * 2
    assert set(rows.threads.dropna()) == {1}


def test_workers_have_one_thread_and_keep_their_memory(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    row = sweep.run(surroundings, [dict(x=1)], workers=1, progress=False).iloc[0]
    assert (row.status, row.trim, row.threads) == ("ok", None, "1")


def test_order_does_not_matter_and_the_sweep_seed_does():
    configs = [dict(x=x) for x in range(3)]
    forward = serial(square, configs)
    backward = serial(square, configs[::-1])[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(values(forward), values(backward))
    assert not forward.noise.isin(serial(square, configs, seed=1).noise).any()
    assert serial(square, [dict(x=1, seed=5)]).noise[0] == serial(square, [dict(seed=5, x=1)], seed=1).noise[0]


def test_only_what_is_missing_is_computed(tmp_path, no_code_change):
    log = str(tmp_path / "log")
    first = serial(square, [dict(x=x, log=log) for x in (1, 2, 3)], folder="squares")
    again = serial(square, [dict(x=x, log=log) for x in (4, 3, 2, 1, 4)], folder="squares")
    assert Path(log).read_text().split() == ["1", "2", "3", "4", "3"]  # the failure is tried again, twins run once
    assert again.x.tolist() == [4, 3, 2, 1, 4]
    assert again.run_seconds[3] == first.run_seconds[0]


def test_an_interrupted_sweep_goes_on(tmp_path, no_code_change):
    log = str(tmp_path / "log")

    def interrupted(x, seed):
        if x == 2 and not interrupted_before:
            interrupted_before.append(x)
            raise KeyboardInterrupt
        return square(x, seed, log)

    interrupted_before = []
    configs = [dict(x=x) for x in (0, 1, 2, 4)]
    with pytest.raises(KeyboardInterrupt):
        serial(interrupted, configs, folder=tmp_path / "stored")
    rows = serial(interrupted, configs, folder=tmp_path / "stored")
    assert Path(log).read_text().split() == ["0", "1", "2", "4"]
    pd.testing.assert_frame_equal(values(rows), values(serial(square, configs)))


def test_a_damaged_file_runs_again(tmp_path, capsys, no_code_change):
    rows = serial(square, [dict(x=1), dict(x=2)], folder=tmp_path)
    file = next(f for f in tmp_path.glob("*.json") if f.name != "version.json")
    file.write_text(file.read_text()[:20])
    pd.testing.assert_frame_equal(values(serial(square, [dict(x=1), dict(x=2)], folder=tmp_path)), values(rows))
    assert "damaged" in capsys.readouterr().out


def test_another_version_is_set_aside(tmp_path, capsys, monkeypatch):
    for version in ("old", "new"):
        monkeypatch.setattr(sweep, "code_version", lambda function, v=version: v)
        serial(square, [dict(x=1)], folder=tmp_path / "s")
    assert "set aside in s.old" in capsys.readouterr().out
    assert json.loads((tmp_path / "s.old" / "version.json").read_text()) == {"code": "old"}
    assert len(list((tmp_path / "s.old").iterdir())) == len(list((tmp_path / "s").iterdir())) == 2


FACTOR = 2


def helper(x):
    return FACTOR * x


class Helper:
    def apply(self, x):
        return helper(x)


def with_helper(x, seed):
    return dict(y=[Helper().apply(x) for _ in range(2)])


def test_code_version_sees_helpers_and_constants(monkeypatch):
    before = sweep.code_version(with_helper)
    assert before == sweep.code_version(with_helper) != sweep.code_version(square)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    changed = sweep.code_version(with_helper)
    assert changed != before
    monkeypatch.setattr(sys.modules[__name__], "helper", deadly)
    assert sweep.code_version(with_helper) not in (before, changed)


def trains(seed):
    return training.fit, seed


@pytest.mark.parametrize(
    ("function", "counts", "does_not"),
    [
        (trains, (training, datasets), (sweep, claims, figures, closure, resnet)),
        # One changed line in the sweep or in the store must not cost an hour of trainings.
        (populations.train, (training, datasets, resnet), (sweep, store, claims, figures)),
    ],
)
def test_code_version_sees_what_the_package_does_for_it_and_nothing_else(monkeypatch, function, counts, does_not):
    plain, before = closure.canonical, sweep.code_version(function)
    for module in counts + does_not:
        text = plain(Path(module.__file__).read_text(encoding="utf-8"))
        monkeypatch.setattr(closure, "canonical", lambda source, of=text: plain(source) + " " * (plain(source) == of))
        assert (sweep.code_version(function) != before) == (module in counts), module


def test_code_version_sees_the_version_of_torch(monkeypatch):
    before = sweep.code_version(trains)
    monkeypatch.setattr(sweep.importlib.metadata, "version", lambda name: f"another {name}")
    assert sweep.code_version(trains) != before


def test_several_rows_and_numpy_values():
    def history(epochs, seed):
        return pd.DataFrame(dict(epoch=np.arange(epochs), error=np.linspace(1, 0, epochs, dtype=np.float32)))

    rows = serial(history, [dict(epochs=2), dict(epochs=3)])
    assert rows.epochs.tolist() == [2, 2, 3, 3, 3] and rows.error.tolist() == [1, 0, 1, 0.5, 0]
    rows = serial(lambda seed: dict(a=np.float64(0.5), b=np.int64(2), c=object()), [{}])
    assert rows.status[0] == "TypeError: returned a object: return numbers, strings, lists and dictionaries"


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, lambda: 0])
def test_a_configuration_that_cannot_be_hashed(value):
    with pytest.raises(ValueError, match=r"configuration 1: net=.* cannot be hashed .* use numbers"):
        serial(square, [dict(x=1), dict(net=value)])


def test_empty_sweep():
    with pytest.raises(ValueError, match="empty sweep"):
        sweep.run(square, [])


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no such scheduler"])
def test_a_scheduler_that_does_not_answer(monkeypatch, address):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=f"no Dask scheduler answers at DASK_SCHEDULER_ADDRESS={address}"):
        sweep.run(square, [dict(x=1)], patience=1)
    assert time.monotonic() - start < 1 + 2  # with the default of 8 s, within 10


def test_an_address_that_takes_the_connection_and_stays_silent(monkeypatch):
    """Something else listens there, as behind a firewall or a stopped scheduler: no answer, and no hanging."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(RuntimeError, match=r"no Dask scheduler answers .* within 1 s: start one"):
            sweep.run(square, [dict(x=1)], patience=1)
        assert time.monotonic() - start < 1 + 2


def test_the_default_patience_leaves_time_to_say_so_within_10_s():
    assert inspect.signature(sweep.run).parameters["patience"].default <= 8


def test_a_run_that_kills_its_workers_is_a_row():
    """The others survive it, and the reason is short."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        rows = sweep.run(deadly, [dict(x=x) for x in range(3)], workers=1)
    assert rows.status[[0, 2]].tolist() == ["ok", "ok"]
    assert rows.status[1].startswith("KilledWorker") and rows.status[1].endswith("while running it (out of memory?)")


def test_a_killed_worker_of_a_cluster_costs_nothing(tmp_path, monkeypatch, no_code_change):
    """A scheduler and two workers as processes of their own; one is killed while it works."""
    address_file, marks = tmp_path / "scheduler.json", tmp_path / "marks"
    marks.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start(program, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--scheduler-file", str(address_file)]
        return subprocess.Popen(
            [*command, "--no-dashboard", *options], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
        )

    processes = [start("scheduler", "--host", "127.0.0.1", "--port", "0")]
    processes += [start("worker", "--nthreads", "1", "--no-nanny") for _ in range(2)]
    victim = processes[1]

    def kill_in_the_middle():
        while victim.poll() is None:
            begun, ended = (len(list(marks.glob(f"{victim.pid}-*-{what}"))) for what in ("start", "end"))
            if ended >= 1 and begun > ended:
                victim.send_signal(signal.SIGKILL)
            time.sleep(0.02)

    try:
        while not (address_file.exists() and address_file.read_text()):
            assert processes[0].poll() is None
            time.sleep(0.05)
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", json.loads(address_file.read_text())["address"])
        configs = [dict(x=x, folder=str(marks)) for x in range(14)]
        killer = threading.Thread(target=kill_in_the_middle, daemon=True)
        killer.start()
        rows = sweep.run(slow, configs, folder="killed")
        assert victim.wait(10) == -signal.SIGKILL
    finally:
        for process in processes:
            process.kill()
            process.wait()
    begun = sorted(file.name for file in marks.glob("*-start"))
    lost = [name for name in begun if not (marks / name.replace("start", "end")).exists()]
    assert len(lost) == 1 and lost[0].startswith(f"{victim.pid}-") and len(begun) > len(configs)
    pd.testing.assert_frame_equal(values(rows), values(serial(slow, configs)))


def test_in_a_notebook(tmp_path):
    """A function of the notebook itself, one line of progress, and nothing on the error stream."""
    code = """
import sys, warnings
sys.path.insert(0, ROOT)
from whichbackbone.experiments import sweep
OFFSET = 1
def shifted(x):
    return x + OFFSET
def cell(x, seed):
    return dict(y=shifted(x))
print(sweep.run(cell, [dict(x=1), dict(x=2)], folder="notebook", workers=2).y.tolist())
""".replace("ROOT", repr(str(ROOT)))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert [o.output_type for o in outputs] == ["display_data", "stream"]
    assert outputs[0].data["text/plain"].startswith("2 of 2 runs") and outputs[1].text == "[2, 3]\n"
