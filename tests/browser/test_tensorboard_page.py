"""What a user sees in TensorBoard of a step and its rewrite.

The fixture `browser` is used and not `page`: TensorBoard's own page asks for fonts and plugins that
may be missing, and logs that as errors of its own.
"""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from traced import gelu_by_erfc, mish, numbers, trace

import nested_fad_tf as nfad
from nested_fad_tf.bench import board

pytestmark = pytest.mark.skipif(not board.installed(), reason="needs tensorboard")

SIDE, ROWS = 512, 4096
_LAYER = "model_1/first_1"
# Of a chart of scalars: whether at least two points are within it.
_LINES_IN_VIEW = """chart => {
    const frame = chart.getBoundingClientRect();
    const points = [...chart.shadowRoot.querySelectorAll("path.symbol")];
    const seen = points.map(p => p.getBoundingClientRect())
        .filter(b => b.top >= frame.top && b.bottom <= frame.bottom);
    return seen.length >= 2;
}"""


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorboard") / "logs"
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(SIDE, activation="gelu", name=n) for n in ("first", "second")]
    model = keras.Sequential([keras.Input([SIDE]), *layers], name="model")

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(gradient)
        return loss

    x = np.random.default_rng(0).standard_normal((ROWS, SIDE)).astype(np.float32)
    options = nfad.Options(on_error="raise")
    report = nfad.tensorboard.compare(step, x, log_dir=folder, options=options, runs=1)
    assert report.changed
    return folder


@pytest.fixture(scope="module")
def address(log_dir, browser):
    with board.serving(log_dir) as found:
        yield found


@pytest.fixture
def page(browser, tmp_path):
    opened = browser.new_page(viewport={"width": 1600, "height": 1000})
    yield opened
    opened.screenshot(path=tmp_path / "page.png")
    opened.close()


def test_the_original_keeps_what_the_activation_computes(page, address):
    tab = board.GraphTab(page, address, "original")
    assert {"model_1", "gradient_tape"} <= set(tab.nodes())
    for name in ("model_1", _LAYER, f"{_LAYER}/Gelu", f"{_LAYER}/Gelu/kept"):
        tab.expand(name)
    shown = set(tab.nodes())
    kept = {"mul", "mul_1"} | ({"mul_2", "Erfc"} if gelu_by_erfc() else {"truediv", "add"})
    assert {f"{_LAYER}/Gelu/kept/{op}" for op in kept} <= shown
    assert not any("fused" in name or "recomputed" in name for name in shown)


def test_the_rewrite_shows_one_node_for_a_fused_group(page, address):
    tab = board.GraphTab(page, address, "rewritten")
    for name in ("model_1", _LAYER):
        tab.expand(name)
    group = f"{_LAYER}/fused_Gelu"
    assert group in tab.nodes()
    assert f"{_LAYER}/Gelu" not in tab.nodes()
    assert not any(name.startswith(f"{group}/") for name in tab.nodes())
    tab.expand(f"{_LAYER}/kept")
    kept = {n for n in tab.nodes() if n.startswith(f"{_LAYER}/kept/") and "~~" not in n}
    assert kept == {f"{_LAYER}/kept/MatMul"}
    tab.select(f"{_LAYER}/kept/MatMul")
    page.get_by_text("8.00 MiB").first.wait_for()
    page.get_by_text("not an element-wise or layout op").first.wait_for()


def test_the_rewrite_shows_what_is_recomputed(page, address):
    tab = board.GraphTab(page, address, "rewritten")
    backward = "gradient_tape/model_1/first_1"
    for name in ("gradient_tape", "gradient_tape/model_1", backward, f"{backward}/fused_Gelu"):
        tab.expand(name)
    again = f"{backward}/fused_Gelu/recomputed"
    tab.expand(again)
    dense = trace(keras.layers.Dense(2), tf.TensorSpec([2, 2])).get_operations()
    bias = "BiasAdd" if "BiasAdd" in {op.type for op in dense} else "Add"  # Keras 3.6 adds
    assert f"{again}/{bias}" in tab.nodes()
    tab.expand(f"{again}/Gelu")
    assert f"{again}/Gelu/{'Erfc' if gelu_by_erfc() else 'Erf'}" in tab.nodes()


def test_scalars(page, address):
    page.goto(f"{address}/#scalars")
    for tag in ("kept_bytes", "predicted_peak", "measured_peak", "step_seconds"):
        page.get_by_text(tag, exact=True).first.wait_for()
    # Both runs' lines are inside the chart.
    page.wait_for_function(
        _LINES_IN_VIEW, arg=page.locator("vz-line-chart2").first.element_handle()
    )


def test_the_report_is_a_table(page, address):
    page.goto(f"{address}/#text")
    page.locator("table th", has_text="rewritten").first.wait_for()
    row = page.locator("tr", has_text="kept for the backward pass").first
    before, after = (float(text) for text in row.locator("td").all_inner_texts()[1:])
    assert before > 2 * after > 0


def test_timelines_and_histograms(page, address):
    page.goto(f"{address}/#images")
    for tag in ("memory/predicted", "memory/measured", "kept/by_layer"):
        page.get_by_text(f"tag: {tag}").first.wait_for()
    image = page.locator("tf-image-loader img").first
    image.wait_for()
    page.wait_for_function("image => image.naturalWidth > 100", arg=image.element_handle())
    page.goto("about:blank")
    page.goto(f"{address}/#histograms")
    page.get_by_text("tag: kept_by_layer").first.wait_for()
    page.locator("vz-histogram-timeseries path").first.wait_for(state="attached")


@pytest.fixture(scope="module")
def saved_address(tmp_path_factory, browser):
    """Where TensorBoard shows a SavedModel and its rewrite, as the command writes them."""
    folder = tmp_path_factory.mktemp("saved")
    weights = tf.Variable(numbers(SIDE, SIDE, scale=SIDE**-0.5))
    module = tf.Module()
    module.weights = weights

    @tf.function(input_signature=[tf.TensorSpec([ROWS, SIDE])])
    def call(x):
        for name in ("first", "second"):
            with tf.name_scope(name):
                x = tf.nn.gelu(x @ weights)
        return x @ weights

    module.call = call
    tf.saved_model.save(module, str(folder / "model"))
    # In a process of its own: the command sets TensorFlow up.
    command = [sys.executable, "-m", "nested_fad_tf", "compare", folder / "model"]
    subprocess.run([*command, f"--log_dir={folder / 'logs'}"], check=True, capture_output=True)
    with board.serving(folder / "logs") as found:
        yield found


def test_a_saved_model_shows_what_its_functions_keep(page, saved_address):
    kept = {}
    for run in ("original", "rewritten"):
        page.goto("about:blank")  # or the tab would not be loaded anew
        tab = board.GraphTab(page, saved_address, run)
        (function,) = (name for name in tab.nodes() if "inference_call" in name)
        layer = f"{function}/second"
        for name in (function, layer):
            tab.expand(name)
        for name in [n for n in tab.nodes() if n.startswith(layer) and n.endswith("/Gelu")]:
            tab.expand(name)
        for name in [n for n in tab.nodes() if n.startswith(layer) and n.endswith("/kept")]:
            tab.expand(name)
        shown = [n.removeprefix(f"{layer}/") for n in tab.nodes() if n.startswith(f"{layer}/")]
        kept[run] = {n for n in shown if "kept/" in n and "nested_fad" not in n}
    # The product that the layer's gradient and what the next product reads are computed from.
    assert kept["rewritten"] == {"kept/matmul"}
    assert len(kept["original"]) > 2
    last = "mul_2" if gelu_by_erfc() else "truediv"
    assert {"Gelu/kept/mul_1", f"Gelu/kept/{last}"} <= kept["original"]


def test_a_saved_model_has_a_histogram_of_what_is_kept(page, saved_address):
    page.goto(f"{saved_address}/#histograms")
    page.get_by_text("tag: kept_by_layer").first.wait_for()
    page.locator("vz-histogram-timeseries path").first.wait_for(state="attached")
    page.goto("about:blank")
    page.goto(f"{saved_address}/#text")
    page.locator("tr", has_text="/second").first.wait_for()
    page.get_by_text("Kept by").first.wait_for()


@pytest.mark.slow
def test_graphs_of_more_than_20000_ops_load(browser, tmp_path):
    blocks, layers = 75, 9

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            for number in range(blocks):
                with tf.name_scope(f"block_{number}"):
                    for layer in range(layers):
                        with tf.name_scope(f"layer_{layer}"):
                            x = mish(mish(mish(x @ w)))
            loss = tf.reduce_sum(x)
        return tape.gradient(loss, w)

    options = nfad.Options(on_error="raise", min_bytes=1024, fuse="ops")
    square = tf.TensorSpec([SIDE, SIDE])
    report = nfad.tensorboard.compare(
        step, square, square, log_dir=tmp_path / "logs", options=options
    )
    assert report.changed
    assert report.nodes_after > 20_000
    with board.serving(tmp_path / "logs") as address:
        for run in ("original", "rewritten"):
            page = browser.new_page()
            tab = board.GraphTab(page, address, run)
            assert f"block_{blocks - 1}" in tab.nodes()
            tab.expand(f"block_{blocks - 1}")
            tab.expand(f"block_{blocks - 1}/layer_0")
            assert f"block_{blocks - 1}/layer_0/kept" in tab.nodes()
            page.screenshot(path=tmp_path / f"{run}.png")
            page.close()
