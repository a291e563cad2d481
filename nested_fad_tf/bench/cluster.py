"""Trains under `tf.distribute`, plain and rewritten, in processes of this machine, and compares."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from nested_fad_tf.report import process

# By strategy: jobs, and how many processes of each; none where one process does it all.
CLUSTERS: dict[str, dict[str, int]] = {
    "one_device": {},
    "mirrored": {},
    "multi_worker": {"worker": 2},
    "parameter_server": {"chief": 1, "worker": 2, "ps": 1},
}
# By model: how far losses and weights may be apart, relatively. Plain TensorFlow's losses of
# MobileNetV3Small move by 2e-5 if its weights move by one unit in the last place.
MODELS = {"dense": 1e-5, "mobilenetv3small": 1e-4}
# Where workers reduce with each other.
_REDUCING = "multi_worker"
# How often their peak is measured, until they don't crash of it.
_ATTEMPTS = 4
_TIMEOUT_S = 300
_POLL_S = 0.2


class CrashError(RuntimeError):
    """A process was ended by the system, as one is that writes to memory it has freed."""


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on.

    Args:
        count: How many.

    Returns:
        The ports.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _tasks(strategy: str) -> list[tuple[str, dict[str, str]]]:
    """The processes that a strategy takes.

    Args:
        strategy: Its name.

    Returns:
        For each process its job and its environment.
    """
    jobs = [(job, i) for job, count in CLUSTERS[strategy].items() for i in range(count)]
    if not jobs:
        return [("", {})]
    cluster: dict[str, list[str]] = {}
    for (job, _), port in zip(jobs, _free_ports(len(jobs)), strict=True):
        cluster.setdefault(job, []).append(f"127.0.0.1:{port}")
    return [
        (job, {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": job, "index": i}})})
        for job, i in jobs
    ]


@contextlib.contextmanager
def _processes(
    request: dict[str, Any], logs: pathlib.Path
) -> Iterator[list[tuple[str, subprocess.Popen[str]]]]:
    """Starts the processes of a run; stops those that are left at the end.

    Args:
        request: The run, as `nested_fad_tf.bench.distributed` takes it.
        logs: Folder for what they write.

    Yields:
        The job of each process, and the process.
    """
    command = [
        sys.executable,
        "-m",
        "nested_fad_tf.bench.distributed",
        "--json",
        json.dumps(request),
    ]
    started: list[tuple[str, subprocess.Popen[str]]] = []
    try:
        for number, (job, environment) in enumerate(_tasks(str(request["strategy"]))):
            with (
                open(logs / f"{number}.log", "w", encoding="utf-8") as log,
                open(logs / f"{number}.out", "w", encoding="utf-8") as out,
            ):
                one = subprocess.Popen(
                    command, env={**os.environ, **environment}, stdout=out, stderr=log, text=True
                )
            started.append((job, one))
        yield started
    finally:
        for _, one in started:
            if one.poll() is None:
                one.kill()
            one.wait()


def train(strategy: str, mode: str, rewritten: bool, model: str) -> dict[str, Any]:
    """Trains, and measures the peak of a step.

    TensorFlow's profiler, which measures, may crash workers that reduce with each other: they train
    without it, and once more with it, again if that fails.

    Args:
        strategy: A strategy.
        mode: "fit" or "loop".
        rewritten: Whether its steps are rewritten.
        model: One of `MODELS`.

    Returns:
        The answer of the first process that gives one; `peak_bytes` is the largest of all, of
        remote workers the resident set.

    Raises:
        RuntimeError: If a process fails or takes too long; with the end of what it wrote.
    """
    request = {"strategy": strategy, "mode": mode, "rewritten": rewritten, "model": model}
    apart = strategy == _REDUCING
    found = run({**request, "measured": not apart})
    return {**found, "peak_bytes": _peak(request)} if apart else found


def _peak(request: dict[str, Any]) -> int | None:
    left = _ATTEMPTS
    while True:
        try:
            return run({**request, "measured": True})["peak_bytes"]
        except CrashError:
            left -= 1
            if not left:
                raise


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Runs all processes of one training.

    Args:
        request: The run, as `nested_fad_tf.bench.distributed` takes it.

    Returns:
        As `train`.

    Raises:
        CrashError: If the system ended a process.
        RuntimeError: If a process fails otherwise or takes too long.
    """
    strategy = str(request["strategy"])
    with tempfile.TemporaryDirectory() as folder, _processes(request, pathlib.Path(folder)) as all_:
        servers = [one for job, one in all_ if strategy == "parameter_server" and job != "chief"]
        trainers = {i: one for i, (_, one) in enumerate(all_) if one not in servers}
        if (failed := _first_to_fail(trainers)) is not None:
            log = pathlib.Path(folder, f"{failed}.log").read_text(encoding="utf-8")
            # It needn't be the first that is found: a worker whose peer crashed fails, too.
            crashed = any((one.poll() or 0) < 0 for one in trainers.values())
            kind = CrashError if crashed else RuntimeError
            raise kind(f"{strategy}, {request['mode']} failed:\n{log[-2000:]}")
        outs = [pathlib.Path(folder, f"{i}.out").read_text(encoding="utf-8") for i in trainers]
        answers = [json.loads(out.splitlines()[-1]) for out in outs]
        first = answers[0]
        peaks = [a["peak_bytes"] for a in answers if a["peak_bytes"] is not None]
        workers = [
            process.largest_resident(one.pid)
            for (job, one) in all_
            if one in servers and job == "worker"
        ]
        return {**first, "peak_bytes": max(workers or peaks, default=None)}


def _first_to_fail(processes: Mapping[int, subprocess.Popen[str]]) -> int | None:
    """Waits for processes; of those that wait for one which failed, none would ever end.

    Args:
        processes: The processes, by number.

    Returns:
        The number of the one that failed first, or that doesn't end in time; `None` if all went
        well.
    """
    end = time.monotonic() + _TIMEOUT_S
    while True:
        codes = {number: one.poll() for number, one in processes.items()}
        failed = [number for number, code in codes.items() if code not in (None, 0)]
        running = [number for number, code in codes.items() if code is None]
        if failed or not running:
            return next(iter(failed), None)
        if time.monotonic() > end:
            return running[0]
        time.sleep(_POLL_S)


def compare(strategy: str, mode: str, model: str) -> dict[str, Any]:
    """Trains plain and rewritten.

    Args:
        strategy: A strategy.
        mode: "fit" or "loop".
        model: One of `MODELS`.

    Returns:
        Both peaks, the largest relative differences, and whether all is as it should be.
    """
    start = time.perf_counter()
    plain, rewritten = (train(strategy, mode, which, model) for which in (False, True))
    losses = max(
        abs(a - b) / max(abs(b), 1e-30)
        for a, b in zip(rewritten["losses"], plain["losses"], strict=True)
    )
    weights = abs(rewritten["weights"] - plain["weights"]) / plain["weights"]
    return {
        "strategy": strategy,
        "mode": mode,
        "model": model,
        "plain_peak": plain["peak_bytes"],
        "peak": rewritten["peak_bytes"],
        "losses": losses,
        "weights": weights,
        "changed": rewritten["changed"],
        "agrees": bool(rewritten["changed"]) and max(losses, weights) <= MODELS[model],
        "seconds": time.perf_counter() - start,
    }
