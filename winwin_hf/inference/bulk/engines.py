"""Workers on this machine, or on a Ray cluster: units go in, records come out, in any order.

Notable:
- Only units travel to the workers and only records travel back: memory grows by the names of the images alone.
- Ray runs a unit again elsewhere where its node or its process ended. Results have the same names, so none is there twice.
"""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from typing import Any

from tqdm import tqdm

from winwin_hf.host_process import unchanged_threads
from winwin_hf.inference.bulk.early import start_method
from winwin_hf.inference.bulk.manifest import Record
from winwin_hf.inference.bulk.plan import Item, Unit
from winwin_hf.inference.bulk.work import BrokenInput, Job, Worker
from winwin_hf.pools import process_pool
from winwin_hf.task import DoesNotFit

THREADS = 4  # of a worker on a CPU: more gain little
ANSWERS_WITHIN = 20.0  # seconds, of a cluster
AHEAD = 2  # units a worker that wait or run
_worker: Worker | Exception | None = None  # of this process, or why it has none


def run_local(job: Job, units: Iterable[Unit], workers: int, devices: Sequence[str] = ()) -> Iterator[list[Record]]:
    """
    Units in processes of this machine; one worker is this process.

    Args:
        devices: one for each worker; none: the job's for all.
    Raises: RuntimeError where a process ends.
    """
    if workers == 1:
        with unchanged_threads():
            worker = Worker(job)
            for unit in units:
                yield from worker.run(unit)
        return
    free = multiprocessing.get_context(start_method()).SimpleQueue()
    for _, device in zip(range(workers), itertools.cycle(devices or [job.device]), strict=False):
        free.put(device)
    waiting = iter(units)
    running: set[Future[list[Record]]] = set()
    try:
        with process_pool(workers, start_method(), _start, (job, free)) as pool:
            while True:
                for unit in itertools.islice(waiting, AHEAD * workers - len(running)):
                    running.add(pool.submit(_run, unit))
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process ended, by a signal or for want of memory; expected fewer workers (--workers), or the same command to go on"
        ) from None


def _start(job: Job, free: Any) -> None:
    """Makes this process a worker, on one of the free devices."""
    global _worker
    tqdm.set_lock(
        threading.RLock()
    )  # its own one is for all processes, and the system would complain of it where this one is ended
    try:
        _worker = Worker(replace(job, device=free.get()))
    except Exception as error:  # here it would only break the pool: the first unit raises it
        _worker = error


def _run(unit: Unit) -> list[Record]:
    if isinstance(_worker, Exception):
        raise _worker
    assert _worker is not None
    return [record for part in _worker.run(unit) for record in part]


class RayWorker:
    """A worker as Ray Data's actors have it: rows of texts in and out."""

    def __init__(self, job: dict[str, Any]) -> None:
        try:
            self.worker: Worker | Exception = Worker(Job(**job))
        except Exception as error:  # an actor that doesn't start is started again, without end
            self.worker = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        records: list[str] = []
        for text in batch["unit"]:
            if isinstance(self.worker, Exception):
                records.append(json.dumps({"broken": str(self.worker)}))
                continue
            try:
                parts = self.worker.run(unpacked(str(text)))
                records.append(json.dumps([record for part in parts for record in part]))
            except BrokenInput as error:  # an error of its own would come back without its type
                records.append(json.dumps({"broken": str(error)}))
        return {"records": records}


def run_ray(job: Job, units: Iterable[Unit], workers: int | None, address: str) -> Iterator[list[Record]]:
    """
    Units in the actors of Ray Data.

    Args:
        workers: at most; None: as many as the cluster has room for.
        address: of a cluster; "auto": the one that runs on this machine, else a new one of this machine alone.
    Raises: ImportError without Ray; ConnectionError where there is no cluster; BrokenInput as a worker does.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of the run
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its log files have the rest
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError("the engine ray needs Ray; expected `pip install 'winwin-hf[cluster]'`") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs a worker's errors with all their lines
    ours = not ray.is_initialized()  # a cluster that is joined stays, one that is started here ends with this call
    if ours:
        _check_answers(os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address)
        ray.init(address=None if address == "auto" else address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield from _through_ray(ray, job, units, workers)
    finally:
        if ours:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raises ConnectionError where nothing listens at a cluster's address, for which Ray itself waits without end."""
    place = address.rpartition("://")[2].rstrip("/")
    host, _, port = place.rpartition(":")
    if address in ("auto", "local", ""):
        return
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise DoesNotFit(f"address {address}: expected HOST:PORT of a Ray cluster, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN).close()
    except OSError as error:
        raise ConnectionError(
            f"address {address}: nothing answers there ({str(error.strerror or error).lower()}); expected a Ray cluster that runs, or auto"
        ) from None


def _through_ray(ray: Any, job: Job, units: Iterable[Unit], workers: int | None) -> Iterator[list[Record]]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    texts = [{"unit": packed(unit)} for unit in units]
    if not texts:
        return
    gpus = 1 if _cuda(ray, job) else 0
    kind = "GPU" if gpus else "CPU"
    held = [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
    if not any(held):
        raise ConnectionError(f"no node of the Ray cluster has a {kind}; expected one that has")
    # an actor that asks for more than any node has would be waited for in vain
    threads = 1 if gpus else min(job.threads or THREADS, max(held))
    job = replace(job, threads=None if gpus else threads)
    most = workers or sum(number // threads for number in held)
    done = ray.data.from_items(texts, override_num_blocks=len(texts)).map_batches(
        RayWorker,
        fn_constructor_args=(asdict(job),),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_cpus=0 if gpus else threads,
        num_gpus=gpus,
    )
    rows = iter(done.iter_rows())
    try:
        for row in rows:
            found = json.loads(row["records"])
            if isinstance(found, dict):
                raise BrokenInput(found["broken"])
            yield found
    finally:
        # Ray frees the actors when nothing refers to the data set any more, and the frame of an error's traceback would
        done = rows = None


def _cuda(ray: Any, job: Job) -> bool:
    return job.device.startswith("cuda") or (job.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def packed(unit: Unit) -> str:
    """A unit as a text."""
    return json.dumps({**asdict(unit), "done": sorted(unit.done)})


def unpacked(text: str) -> Unit:
    given = json.loads(text)
    items = given["items"]
    if items is not None:
        items = tuple(Item(**{**item, "where": tuple(item["where"])}) for item in items)
    return Unit(**{**given, "items": items, "done": frozenset(given["done"])})
