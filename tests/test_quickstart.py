"""The quick start's file for several machines, run by two processes that find each other."""

import json
import os
import socket
import subprocess
import sys

import pages
import pytest

_TIMEOUT_S = 240


def _train_py():
    """The last block of the page: the file that is the same on every machine."""
    *_, last = pages.blocks(pages.read("docs/quickstart.md"))
    assert "MultiWorkerMirroredStrategy" in last.code
    return last


def _free_ports():
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in (first, second)]


@pytest.mark.slow
def test_two_workers_train_what_the_page_shows(tmp_path):
    block = _train_py()
    script = tmp_path / "train.py"
    script.write_text(block.code + "\nprint(losses)\n", encoding="utf-8")
    cluster = {"worker": [f"127.0.0.1:{port}" for port in _free_ports()]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2)]
    environment = {**os.environ, "PYTHONPATH": str(pages.REPOSITORY)}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env={**environment, "TF_CONFIG": json.dumps(task)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in tasks
    ]
    try:
        ended = [worker.communicate(timeout=_TIMEOUT_S) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, errors) in zip(workers, ended, strict=True):
        assert worker.returncode == 0, errors[-2000:]
    (first, losses), (second, others) = (out.strip().rsplit("\n", 1) for out, _ in ended)
    assert first == second == block.output.strip()
    # Each sums up the same losses of both: they trained as one.
    assert losses == others
