"""The search for the largest batch, and a process that really runs out."""

import json
import sys

import pytest

from nested_fad_tf.bench import largest_batch, request, variants
from nested_fad_tf.bench.largest_batch import PRECISION, Trial

MIB = 2**20


def attempts(needed, limit):
    """An attempt that goes if `needed(batch)` is within the limit, and the batches it was given."""
    asked = []

    def attempt(batch):
        asked.append(batch)
        return Trial(batch, needed(batch)) if needed(batch) <= limit else Trial(batch, None, "out")

    return attempt, asked


@pytest.mark.parametrize("first", [1, 16, 300, 5000])
@pytest.mark.parametrize("largest", [1, 2, 17, 333, 100_000])
def test_finds_where_memory_gives_out(first, largest):
    attempt, asked = attempts(lambda batch: 100 + 7 * batch, limit=100 + 7 * largest)
    found, failed = largest_batch.largest(attempt, first, limit=100 + 7 * largest)
    assert found <= largest < failed.batch
    assert failed.batch - found <= max(1, PRECISION * found)
    assert len(asked) == len(set(asked)) <= 16


def test_few_attempts_where_memory_grows_with_the_batch():
    attempt, asked = attempts(lambda batch: 500 + 30 * batch, limit=10_000)
    largest_batch.largest(attempt, 16, limit=10_000)
    assert len(asked) <= 5


def test_memory_that_does_not_grow_evenly():
    attempt, _ = attempts(lambda batch: 1000 - batch if batch < 50 else 20 * batch, limit=9000)
    found, failed = largest_batch.largest(attempt, 16, limit=9000)
    assert found <= 450 < failed.batch
    assert failed.batch - found <= PRECISION * found


def test_not_even_one_example():
    attempt, asked = attempts(lambda _: 2, limit=1)
    assert largest_batch.largest(attempt, 16, limit=1) == (0, Trial(1, None, "out"))
    assert asked == [16, 8, 4, 2, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="a process can be limited on Linux only")
def test_a_process_runs_out():
    trial = largest_batch._attempt(
        "relu_mlp:depth=1", "plain", 700 * MIB, variants.DEFAULT, 200_000
    )
    assert trial.needed is None
    assert trial.out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a process can be limited on Linux only")
def test_a_rewritten_step_trains_with_more():
    (row,) = largest_batch.run_largest_batch(["mish_mlp:batch=8192"], ["auto"], 1200 * MIB)
    assert row.plain_batch > 4096
    assert row.batch > 1.5 * row.plain_batch


def test_what_fails_for_another_reason_is_an_error(monkeypatch):
    def ask(module, asked):
        raise request.FailedError("it failed", 1, "ImportError: no keras_hub")

    monkeypatch.setattr(request, "ask", ask)
    with pytest.raises(RuntimeError, match="no keras_hub"):
        largest_batch.run_largest_batch(["relu_mlp"], ["auto"], MIB)


def test_rows_of_versions_that_run_and_of_one_that_does_not(monkeypatch, capsys, tmp_path):
    """Plain TensorFlow needs 10 MiB an example, a rewritten step 4, and one peer doesn't run."""

    def ask(module, asked):
        assert module == "nested_fad_tf.bench.limited"
        name, batch, depth = asked["model"].split(":")
        assert (name, depth, asked["limit"]) == ("relu_mlp", "depth=3", 1000 * MIB)
        strategy = asked["strategy"]
        if strategy == "remat_full":
            row = {"model": "relu_mlp", "strategy": strategy, "measured": "batch", "reason": "no"}
            return {"refused": row}
        needed = {"plain": 10, "auto": 4}[strategy] * int(batch.removeprefix("batch=")) * MIB
        if needed <= asked["limit"]:
            return {"needed": needed}
        if strategy == "plain":
            raise request.FailedError("it failed", -6, "bad_alloc")
        return {"out": "OOM when allocating"}

    monkeypatch.setattr(request, "ask", ask)
    path = tmp_path / "batch.json"
    model, versions = "relu_mlp:depth=3:batch=16", ["auto", "remat_full"]
    (row,) = largest_batch.run_largest_batch([model], versions, 1000 * MIB, json_path=path)
    assert (row.plain_batch, row.batch, row.out) == (100, 250, "OOM when allocating")
    output = capsys.readouterr()
    assert "100 -> 250" in output.out
    assert "2.50x" in output.out
    assert "remat_full: no" in output.out
    assert "ended by SIGABRT" in output.err
    results = json.loads(path.read_text())["results"]
    assert [row["batch"] for row in results["batch"]] == [250]
    assert [row["strategy"] for row in results["refused"]] == ["remat_full"]
