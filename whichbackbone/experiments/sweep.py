"""Run many independent configurations on the cores of this machine or on a cluster, by Dask.

    rows = sweep.run(train_one, [dict(depth=20, replicate=r) for r in range(3)], folder="02_degradation")

calls `train_one(depth=20, replicate=0, seed=...)` and so on, each in a process with one torch thread. A result depends
on its configuration alone, neither on the number of workers nor on the order. Each is stored at once, so that a sweep
that was interrupted, or is repeated with more configurations, computes only the missing ones.

With DASK_SCHEDULER_ADDRESS set, the runs go to the cluster behind that address instead of to this machine.
"""

import asyncio
import hashlib
import importlib.metadata
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from whichbackbone.evidence import closure, machine
from whichbackbone.folders import cache_folder
from whichbackbone.optional import needs

_FORMAT = 1  # of the stored files
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run(
    function: Callable[..., Any],
    configs: Iterable[Mapping[str, Any]],
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    workers: int | None = None,
    memory: str = "3GiB",
    resources: Mapping[str, float] | None = None,
    progress: bool = True,
    patience: float = 8,
) -> pd.DataFrame:
    """Call `function(**config, seed=...)` for every configuration, and return all results as one table.

    The `seed` argument follows from the configuration and the sweep's `seed`, unless the configuration has a "seed" of
    its own. `function` may be defined in a notebook. It returns a mapping (one row), or a list of mappings or a
    DataFrame (several rows), of values that JSON can hold.

    Args:
        function: what to call, see above.
        configs: keyword arguments, made of numbers, strings, booleans, None, lists and dictionaries.
        seed: of the whole sweep: another one repeats it with other random numbers.
        folder: where to store finished configurations; a relative path is below "sweeps" in the cache folder, None
            stores nothing. A folder of another version of the code is renamed to `<folder>.<version>`, and a line says
            so.
        workers: local processes, by default one per core that this process may use; 0 runs everything in this process,
            without Dask (to debug). A cluster has its own.
        memory: limit of each local worker; a worker that exceeds it is restarted.
        resources: Dask resources that a run needs, such as {"GPU": 1}.
        progress: show a line of progress.
        patience: seconds to wait for an answer from the scheduler of a cluster.

    Returns:
        The rows in the order of `configs`: the configuration, then status, run_seconds (time of the call), and what the
        function returned. status is "ok", or the reason why there is no result: the exception, or that four workers
        died of it. Such a configuration is one row, and the next call tries it again.

    Raises:
        ValueError: for an empty sweep, or a configuration that cannot be hashed.
        RuntimeError: if the scheduler of the cluster does not answer.
        ModuleNotFoundError: if workers are needed and Dask is not installed.
    """
    configs = [dict(config) for config in configs]
    if not configs:
        raise ValueError("empty sweep: expected at least one configuration")
    keys = [_key(config, seed, position) for position, config in enumerate(configs)]
    store = _Store(folder, code_version(function))
    done = store.read(keys)
    missing = {key: config for key, config in zip(keys, configs, strict=True) if key not in done}
    if missing:
        line = _Line(progress, len(set(keys)), stored=len(done))
        if workers == 0:
            outcomes = _serial(function, missing)
        else:
            outcomes = _dask(function, missing, workers, memory, dict(resources or {}), patience, line)
        for key, outcome in outcomes:
            done[key] = outcome
            if outcome["status"] == "ok":
                store.write(key, missing[key], outcome)
            line.show(len(done), sum(o["status"] != "ok" for o in done.values()))
        line.close()
    return _table(configs, [done[key] for key in keys])


def code_version(function: Callable[..., Any]) -> str:
    """Hash what results depend on besides the configuration, as 12 hex digits.

    This covers the source of `function`, with what it uses of its own module or notebook, so that editing a helper in
    another cell counts too; the modules of this package that all this reaches; and the versions of torch and of the
    other libraries that these import. See :func:`whichbackbone.evidence.closure.experiment_key`.
    """
    return closure.experiment_key(function, format=_FORMAT, torch=importlib.metadata.version("torch"))


def _key(config: Mapping[str, Any], seed: int, position: int) -> str:
    """Hash a configuration under the sweep's seed; the order of its entries does not matter.

    Raises ``ValueError`` if it holds what JSON cannot, with its position in the sweep.
    """
    for name, value in config.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"configuration {position}: {name}={value!r} cannot be hashed ({error}): "
                "use numbers, strings, booleans, None, lists and dictionaries"
            ) from None
    if not all(isinstance(name, str) for name in config):
        raise ValueError(f"configuration {position}: names must be strings, found {list(config)}")
    text = json.dumps([seed, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _call(function: Callable[..., Any], config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Run one configuration, on the worker, and return its outcome; an exception becomes its status."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        returned = function(**{"seed": int(key[:8], 16), **config})
        if isinstance(returned, pd.DataFrame):
            returned = returned.to_dict("records")
        rows = [returned] if isinstance(returned, Mapping) else returned
        # Through JSON, so that what was just computed and what is read from the store are the same.
        rows = json.loads(json.dumps([dict(row) for row in rows], default=_plain))
        return dict(status="ok", run_seconds=time.perf_counter() - start, rows=rows)
    except Exception as error:
        return _failure(f"{type(error).__name__}: {error}", time.perf_counter() - start)


def _plain(value: Any) -> Any:
    """Return a numpy or torch scalar as Python's; raise ``TypeError`` for anything else that JSON cannot hold."""
    if getattr(value, "size", None) in (1, ()) or getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"returned a {type(value).__name__}: return numbers, strings, lists and dictionaries")


def _failure(reason: str, seconds: float) -> dict[str, Any]:
    """Return the outcome of a configuration that gave no result."""
    return dict(status=reason, run_seconds=seconds, rows=[{}])


def _table(configs: Sequence[Mapping[str, Any]], outcomes: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row for every row that a configuration gave, with the configuration in front."""
    return pd.DataFrame(
        [
            {**config, "status": outcome["status"], "run_seconds": outcome["run_seconds"], **row}
            for config, outcome in zip(configs, outcomes, strict=True)
            for row in outcome["rows"]
        ]
    )


def _serial(function: Callable[..., Any], missing: Mapping[str, Mapping]) -> Iterator[tuple[str, dict]]:
    """Run the configurations one after the other in this process: the results that Dask must reproduce."""
    import torch

    threads = torch.get_num_threads()
    try:
        for key, config in missing.items():
            yield key, _call(function, config, key)
    finally:
        torch.set_num_threads(threads)


def _dask(
    function: Callable[..., Any],
    missing: Mapping[str, Mapping],
    workers: int | None,
    memory: str,
    resources: dict[str, float],
    patience: float,
    line: "_Line",
) -> Iterator[tuple[str, dict]]:
    """Run the configurations with Dask, and give their keys and outcomes as they finish."""
    with needs("dask[distributed]", "distributed"):
        from distributed import KilledWorker, as_completed

    with _client(min(workers or machine.usable_cores(), len(missing)), memory, resources, patience) as client:
        line.workers = lambda: len(client.nthreads())
        line.show(line.stored, 0)
        started = time.perf_counter()
        # A task lost with its worker is given to another; after three lost workers it fails with KilledWorker.
        futures = {
            client.submit(_call, function, config, key, key=f"sweep-{key}", resources=resources, pure=False): key
            for key, config in missing.items()
        }
        for future in as_completed(futures, loop=client.loop):
            try:
                outcome = future.result()
            except KilledWorker as error:
                reason = str(error).split(". ")[0]  # the rest is advice to read logs
                outcome = _failure(f"KilledWorker: {reason} (out of memory?)", time.perf_counter() - started)
            except Exception as error:  # a function that cannot be sent or imported there
                outcome = _failure(f"{type(error).__name__}: {error}", time.perf_counter() - started)
            yield futures[future], outcome
            future.release()


@contextmanager
def _client(workers: int, memory: str, resources: dict[str, float], patience: float) -> Iterator[Any]:
    """Give a Dask client of the cluster at DASK_SCHEDULER_ADDRESS, or of a local one that ends with the context.

    Raises ``RuntimeError`` if no scheduler answers at that address within ``patience`` seconds.
    """
    import dask
    from distributed import Client, LocalCluster

    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    quiet = {"logging.distributed": "critical"}
    # A worker is given one run at a time, so that those waiting do not share the blame when it dies.
    single = {"distributed.scheduler.worker-saturation": 1.0}
    # Dask would set MALLOC_TRIM_THRESHOLD_ too: every freed block then goes back to the system at once, and training
    # steps of a small network take twice as long, most of it page faults.
    spawn = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, 1)}
    with dask.config.set({**quiet, **single, **spawn}):
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters becomes a row or an exception
        if address:
            try:
                _shake_hands(address, patience)
                client = Client(address, timeout=patience, set_as_default=False)
            except (OSError, ValueError) as error:
                raise RuntimeError(
                    f"no Dask scheduler answers at DASK_SCHEDULER_ADDRESS={address} within {patience:g} s: "
                    f"start one, correct the address, or unset it to run on this machine ({type(error).__name__})"
                ) from None
            with client:
                yield client
            return
        with (
            tempfile.TemporaryDirectory(prefix="sweep-", ignore_cleanup_errors=True) as scratch,
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=memory,
                resources=resources,
                dashboard_address=None,  # no port to collide with, and no warning about it
                silence_logs=logging.CRITICAL,
                local_directory=scratch,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def _shake_hands(address: str, patience: float) -> None:
    """Raise ``OSError`` if no Dask process answers in time; Dask's own client waits for ever for another program."""
    from distributed.comm import connect
    from distributed.security import Security

    async def shake() -> None:
        comm = await connect(address, timeout=patience, **Security().get_connection_args("client"))
        await comm.close()

    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has an event loop already
        thread.submit(lambda: asyncio.run(asyncio.wait_for(shake(), patience))).result()


class _Store:
    """A folder of one JSON file per finished configuration, all from one version of the code."""

    def __init__(self, folder: str | Path | None, code: str):
        self.folder = folder and cache_folder() / "sweeps" / folder
        if not self.folder:
            return
        mark = self.folder / "version.json"
        if self.folder.exists() and (found := self._version(mark)) != code:
            aside = self.folder.with_name(f"{self.folder.name}.{found}")
            while aside.exists():
                aside = aside.with_name(aside.name + "+")
            self.folder.rename(aside)
            print(f"{self.folder.name}: results of another version of the code were set aside in {aside.name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            _write(mark, dict(code=code))

    @staticmethod
    def _version(mark: Path) -> str:
        try:
            return json.loads(mark.read_text())["code"]
        except (OSError, ValueError, KeyError, TypeError):
            return "unknown"

    def read(self, keys: Iterable[str]) -> dict[str, dict]:
        """Return the stored outcomes by key; a damaged file counts as missing, and a line says so."""
        found = {}
        for key in set(keys) if self.folder else ():
            try:
                entry = json.loads((self.folder / f"{key}.json").read_text())
                found[key] = {name: entry[name] for name in ("status", "run_seconds", "rows")}
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError):
                print(f"{self.folder.name}/{key}.json is damaged: its configuration runs again")
        return found

    def write(self, key: str, config: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        if self.folder:
            _write(self.folder / f"{key}.json", dict(config=config, **outcome))


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    part = file.with_suffix(f".{os.getpid()}.tmp")
    part.write_text(json.dumps(content))
    os.replace(part, file)


class _Line:
    """A line of progress that is written over: in a notebook one output, else on the error stream of a terminal."""

    def __init__(self, wanted: bool, total: int, stored: int):
        self.total, self.stored, self.start, self.workers = total, stored, time.perf_counter(), lambda: 0
        self.handle, self.wanted = None, wanted
        if wanted and "ipykernel" in sys.modules:
            from IPython.display import display

            self.handle = display({"text/plain": "starting workers"}, raw=True, display_id=True)

    def show(self, done: int, failed: int) -> None:
        parts = [f"{done} of {self.total} runs", f"{time.perf_counter() - self.start:.0f} s"]
        parts += [f"{self.stored} from an earlier call"] if self.stored else []
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{n} worker{'s' if n > 1 else ''}"] if (n := self.workers()) else []
        text = " · ".join(parts)
        if self.handle:
            self.handle.update({"text/plain": text}, raw=True)
        elif self.wanted and sys.stderr.isatty():
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.wanted and not self.handle and sys.stderr.isatty():
            print(file=sys.stderr)
