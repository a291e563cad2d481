"""Peers of the benchmark: that each does what its users would get, and what is said if not."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from nested_fad_tf.bench import agreement, blocks, catalog, command, models, peers, runner, versions
from nested_fad_tf.bench.task import Task

layers = keras.layers
WIDTH, BATCH = 32, 64
_NO_REMAT, _OLD_KERAS = not hasattr(keras, "RematScope"), "RematScope came with Keras 3.9"


def perceptron(rng):
    inputs = x = keras.Input([WIDTH], batch_size=BATCH)
    for _ in range(4):
        x = layers.Activation("gelu")(layers.Dense(WIDTH)(x))
    model = keras.Model(inputs, layers.Dense(10)(x))
    return Task(model, rng.standard_normal([BATCH, WIDTH]), rng.integers(0, 10, BATCH))


def normalized(rng):
    inputs = x = keras.Input([WIDTH], batch_size=BATCH)
    for _ in range(4):
        x = layers.Activation("gelu")(layers.BatchNormalization()(layers.Dense(WIDTH)(x)))
    model = keras.Model(inputs, layers.Dense(10)(x))
    return Task(model, rng.standard_normal([BATCH, WIDTH]), rng.integers(0, 10, BATCH))


class Encoder(layers.Layer):
    """A layer made of layers, as the language models' are."""

    def __init__(self):
        super().__init__()
        self.inner = [layers.Dense(WIDTH, "gelu"), layers.Dense(WIDTH)]

    def build(self, shape):
        for layer in self.inner:
            layer.build(shape)

    def call(self, x, gate=None):
        y = self.inner[1](self.inner[0](x))
        return x + (y if gate is None else tf.where(gate, y, 0.0))


def composite(rng):
    inputs = keras.Input([WIDTH], batch_size=BATCH)
    x = inputs
    for _ in range(3):
        x = Encoder()(x, gate=keras.ops.greater(inputs, 0.0))
    model = keras.Model(inputs, layers.Dense(10)(x))
    return Task(model, rng.standard_normal([BATCH, WIDTH]), rng.integers(0, 10, BATCH))


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    small = {"perceptron": perceptron, "normalized": normalized, "composite": composite}
    for name, builder in small.items():
        monkeypatch.setitem(models._BUILDERS, name, builder)
        monkeypatch.setitem(catalog.MODELS, name, {})


def row_of(model, peer, dtype="float64"):
    return agreement.gradients_row(model, peer, dtype=dtype)


def gelus_in(problem):
    graph = tf.function(problem.gradients).get_concrete_function(*problem.inputs).graph
    return sum(op.type in ("Erf", "Erfc") for op in graph.get_operations())


@pytest.mark.parametrize(
    "peer",
    [
        "recompute_activations",
        "recompute_blocks",
        pytest.param("remat_activations", marks=pytest.mark.skipif(_NO_REMAT, reason=_OLD_KERAS)),
    ],
)
@pytest.mark.parametrize("model", ["perceptron", "composite"])
def test_recomputes_with_the_same_gradients(model, peer):
    once = {"perceptron": 4, "composite": 3}[model]
    assert gelus_in(models.build(model)) == once
    assert gelus_in(models.build(model, version=peer)) == 2 * once
    row = row_of(model, peer)
    assert row.loss_difference == 0
    assert row.worst_difference < 1e-12


def test_every_peer_has_a_way():
    assert list(peers._WAYS) == list(catalog.PEERS)


def test_compiled_is_compared_with_compiled():
    row = row_of("perceptron", "jit_compile", "float32")
    assert row.jit_compile
    assert row.worst_difference == 0
    assert peers.is_compiled("jit_compile")


def test_what_goes_wrong_is_seen():
    """Recomputing a batch normalization moves its averages a second time."""
    row = row_of("normalized", "recompute_blocks")
    assert row.worst_determined < 1e-12
    assert row.state_difference > 0.1
    assert row_of("normalized", "recompute_activations").state_difference == 0
    assert row_of("normalized", "auto").state_difference < 1e-12


def test_what_a_peer_refuses_is_a_row():
    with pytest.raises(peers.RefusedError, match="remat_full on perceptron: ") as raised:
        agreement.gradients_row("perceptron", "remat_full", dtype="float32")
    row = raised.value.row
    assert row.model == "perceptron"
    assert (_OLD_KERAS if _NO_REMAT else "keywords arguments only when eager") in row.reason
    assert "\n" not in row.reason
    with pytest.raises(peers.RefusedError, match="no layer has an activation function of its own"):
        agreement.gradients_row("linear_mlp", "recompute_activations", dtype="float32")


def test_times_of_peers_alternate_with_the_others():
    rows, refused = runner.time_rows(["perceptron"], ["auto", "recompute_blocks", "remat_full"])
    names = [row.strategy for row in rows]
    assert names == ["plain", "auto", "recompute_blocks", runner.CONTROL]
    assert {row.rounds for row in rows} == {9}
    assert [(row.strategy, row.measured) for row in refused] == [("remat_full", "time")]


@pytest.mark.slow
def test_memory_in_fresh_processes_and_the_table(capsys, tmp_path):
    file = tmp_path / "bench.json"
    results = command.run_bench(
        ["relu_mlp"], ["recompute_activations", "remat_full"], json_path=file, what=["memory"]
    )
    (row,) = results["memory"]
    assert row["strategy"] == "recompute_activations"
    assert row["peak"] > 0
    (refused,) = results["refused"]
    assert refused["strategy"] == "remat_full"
    assert "remat_full | memory" in capsys.readouterr().out
    assert "remat_full" in file.read_text()


def test_blocks_of_a_chain():
    model = perceptron(np.random.default_rng(0)).model
    borders = blocks._borders(model)
    assert len(borders) > 2
    starts, ends = zip(*borders, strict=True)
    assert starts[0] is model.inputs[0]
    assert ends[-1] is model.outputs[0]
    assert [id(t) for t in starts[1:]] == [id(t) for t in ends[:-1]]


def test_blocks_do_not_cut_what_is_passed_by():
    inputs = keras.Input([8])
    x = layers.Dense(8)(inputs)
    y = layers.Dense(8)(layers.Dense(8)(x))
    z = layers.Add()([x, y])
    model = keras.Model(inputs, layers.Dense(8)(layers.Dense(8)(z)))
    nodes = [n for depth in sorted(model._nodes_by_depth, reverse=True)[1:]
             for n in model._nodes_by_depth[depth]]  # fmt: skip
    possible = [tensor for _, tensor in blocks._possible_cuts(nodes)]
    assert len(possible) == 3
    assert possible[0] is x
    assert possible[1] is z


def test_repeated_layers_are_the_blocks():
    model = composite(np.random.default_rng(0)).model
    assert [type(layer) for layer in blocks.repeated_layers(model)] == [Encoder] * 3
    assert not blocks.repeated_layers(perceptron(np.random.default_rng(0)).model)


def test_versions():
    options = versions.options("forward_ad:precision=int4:min_bytes=1024")
    assert (options.strategy, options.precision, options.min_bytes) == ("forward_ad", "int4", 1024)
    assert versions.options("auto:budget=6GiB").budget == "6GiB"
    assert versions.options("auto:fuse=ops", fuse="xla").fuse == "ops"
    assert options.on_error == "raise"
    assert versions.is_rewrite("auto:budget=0.3")
    assert not any(map(versions.is_rewrite, [versions.PLAIN, *catalog.PEERS]))
    with pytest.raises(ValueError, match="not of the form name=value"):
        versions.options("auto:budget")
    with pytest.raises(ValueError, match="unknown option 'bugdet'"):
        versions.options("auto:bugdet=1")
    with pytest.raises(ValueError, match="not by losses"):
        command.run_bench(["relu_mlp"], ["jit_compile"], what=["losses"])


def test_lossy_gradients_are_compared_one_by_one():
    versions_compared = ["auto", "auto:activations=int8", "auto:activations=int4"]
    rows = [row_of("gelu_mlp:batch=2048:depth=3", v, "float32") for v in versions_compared]
    exact, int8, int4 = rows
    assert not exact.tensors
    assert int8.tensors.keys() == int4.tensors.keys() and len(int8.tensors) == 8
    for norm, cosine in int8.tensors.values():
        # What is close to parallel is off by its norm: the cosine falls with the square.
        np.testing.assert_allclose(1 - cosine, norm**2 / 2, rtol=0.1, atol=1e-7)
    assert max(norm for norm, _ in int8.tensors.values()) < 0.02
    assert max(norm for norm, _ in int4.tensors.values()) > 0.05
    table = command.layer_table([dataclasses.asdict(row) for row in rows])
    header, _, *lines = table.splitlines()
    assert "auto:activations=int4" in header and len(lines) == 8
    assert not command.layer_table([dataclasses.asdict(exact)])
