"""What computing again costs: the numbers, and where they come from."""

from __future__ import annotations

import logging
import math

import pytest
import tensorflow as tf
from traced import SIZE, SQUARE, candidates_of, node

from nested_fad_tf.errors import CostsError, RewriteError
from nested_fad_tf.graph import devices
from nested_fad_tf.ops.entry import Cost
from nested_fad_tf.ops.heavy import Kind
from nested_fad_tf.options import preset_names
from nested_fad_tf.plan import cost, price_files
from nested_fad_tf.plan.cut import minimum_cut
from nested_fad_tf.plan.prices import Prices

CPU = price_files.shipped("CPU")


@pytest.fixture(autouse=True)
def read_anew():
    price_files.forget()
    yield
    price_files.forget()


@pytest.mark.parametrize("nbytes", [4, 1 << 16, 1 << 20, 12345678, 1 << 34])
def test_the_default_of_a_cpu_is_what_was_fitted_to_step_times(nbytes):
    apart = {Cost.CHEAP: 0.03, Cost.MEDIUM: 0.08, Cost.DEAR: 0.4}
    fused = {Cost.CHEAP: 0.01, Cost.MEDIUM: 0.03, Cost.DEAR: 0.1}
    assert {c: CPU.rate(c, nbytes, fused=False) for c in Cost} == apart
    assert {c: CPU.rate(c, nbytes, fused=True) for c in Cost} == fused
    assert CPU.moving(Cost.DEAR, nbytes, fused=True) == 0.1 * nbytes
    assert CPU.kept_by_group == 1.04


def test_the_default_prices_of_heavy_work():
    assert CPU.working(Kind.PRODUCT, 1000.0) == 0.0005 * 1000
    assert CPU.working(Kind.CONVOLUTION, 1000.0) == 0.0005 * 1000
    # Those of a depthwise convolution count five times, an element that is read a hundred times.
    assert CPU.working(Kind.DEPTHWISE, 1000.0) == 0.0005 * 5 * 1000
    assert CPU.working(Kind.PASS, 1000.0) == 0.0005 * 100 * 1000


def test_the_default_of_a_gpu_says_that_it_is_not_measured():
    gpu = price_files.shipped("GPU")
    assert "not measured" in gpu.source
    # A second is worth as much as on a CPU: 3 % of what a cheap op gets through.
    assert gpu.rate(Cost.CHEAP, 1 << 28, fused=False) == pytest.approx(0.03, rel=0.1)
    assert gpu.rate(Cost.CHEAP, 1 << 16, fused=False) > 1  # starting a kernel


def test_prices_are_no_presets():
    assert not {"cpu", "gpu", "costs"} & set(preset_names())


def measured(**changes) -> Prices:
    values = {
        "device": "CPU",
        "source": 'a "test" \\ on ü',
        "bytes_per_second": 1e9,
        "sizes": (1 << 10, 1 << 20),
        "apart": dict.fromkeys(Cost, (1e-09, 5e-09)),
        "fused": dict.fromkeys(Cost, (1e-10, 2e-10)),
        "work": dict.fromkeys(Kind, 1e-12),
        "write_out": 0.0,
    }
    return Prices(**{**values, **changes})


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [(1, 1.0), (1 << 10, 1.0), (1 << 15, 3.0), (1 << 18, 4.2), (1 << 20, 5.0), (1 << 30, 5.0)],
)
def test_between_two_sizes_it_goes_by_their_logarithm(nbytes, expected):
    assert measured().rate(Cost.CHEAP, nbytes, fused=False) == pytest.approx(expected)


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "costs.toml"
    path.write_text(measured().to_toml(), encoding="utf-8")
    assert Prices.from_file(path) == measured()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[costs]", "[cost]"), "sizes is missing"),
        (("[costs]", "[costs"), "not valid TOML"),
        (("sizes = [1024, 1048576]", "sizes = [1024, 1024]"), "sizes is .*rising sizes"),
        (("sizes = [1024, 1048576]", "sizes = 3"), "sizes is 3; allowed: rising"),
        (("cheap = [1e-09, 5e-09]", "cheap = [1e-09]"), "apart.cheap is .*2 positive numbers"),
        (("cheap = [1e-09, 5e-09]", "cheap = [1e-09, nan]"), "apart.cheap is .*2 positive"),
        (("dear = [1e-10, 2e-10]", ""), "fused.dear is missing"),
        (("product = 1e-12", "product = -1"), "work.product is -1"),
        (("bytes_per_second = 1000000000.0", "bytes_per_second = true"), "bytes_per_second is"),
        (('device = "CPU"', "device = 1"), "device is 1; allowed: a text"),
        (("write_out = 0.0", "write_out = inf"), "write_out is inf"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, change, message):
    text = measured().to_toml()
    assert change[0] in text
    path = tmp_path / "costs.toml"
    path.write_text(text.replace(*change, 1), encoding="utf-8")
    with pytest.raises(CostsError, match=message) as caught:
        Prices.from_file(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, RewriteError)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CostsError, match=r"cannot read .*none.toml: No such file"):
        Prices.from_file(tmp_path / "none.toml")


def in_cache(monkeypatch, folder, text=None):
    """Lets the user's cache folder be this one, with a file of a CPU in it."""
    monkeypatch.delenv(price_files.VARIABLE)
    monkeypatch.setattr(price_files.platformdirs, "user_cache_dir", lambda name: str(folder))
    file = price_files.file_of("CPU")
    if text is not None:
        file.write_text(text, encoding="utf-8")
    return file


def test_without_a_measurement_the_defaults_count(monkeypatch, tmp_path):
    file = in_cache(monkeypatch, tmp_path)
    assert not file.exists()
    assert price_files.current("CPU") is CPU


def test_what_was_measured_counts(monkeypatch, tmp_path):
    in_cache(monkeypatch, tmp_path, measured().to_toml())
    assert price_files.current("CPU") == measured()
    assert price_files.current("GPU") == price_files.shipped("GPU")
    assert candidates_of(tf.tanh, SQUARE).prices == measured()
    monkeypatch.setenv(price_files.VARIABLE, "default")
    assert price_files.current("CPU") is CPU


def test_the_environment_names_a_file_for_all_devices(monkeypatch, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(measured().to_toml(), encoding="utf-8")
    monkeypatch.setenv(price_files.VARIABLE, str(path))
    assert price_files.current("CPU") == price_files.current("GPU") == measured()


def test_a_broken_measurement_is_warned_of_once(monkeypatch, tmp_path, caplog):
    file = in_cache(monkeypatch, tmp_path, "nonsense")
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert price_files.current("CPU") is CPU
        assert price_files.current("CPU") is CPU
    (record,) = caplog.records
    for words in (str(file), "bench --calibrate", "delete the file", "default prices are used"):
        assert words in record.getMessage()


def test_a_missing_file_that_the_environment_names_is_warned_of(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv(price_files.VARIABLE, str(tmp_path / "none.toml"))
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert price_files.current("CPU") is CPU
    assert f"correct {price_files.VARIABLE}" in caplog.text


def test_most_ops_decide_which_device_counts():
    assert devices.kind_of_most([]) == "CPU"
    assert devices.kind_of_most(["/device:GPU:0", "/gpu:0", "/cpu:0"]) == "GPU"
    assert devices.kind_of_most(["/device:GPU:0", "/cpu:0", "/job:worker/cpu:0"]) == "CPU"


def step(x, w, v):
    with tf.GradientTape() as tape:
        tape.watch([w, v])
        z = (tf.tanh(x @ w) * 3.0) @ v
    return tape.gradient(z, [w, v])


def test_a_plan_follows_the_prices():
    candidates = candidates_of(step, SQUARE, SQUARE, SQUARE)
    tanh = node(candidates.view, "Tanh")
    surcharge = {tanh.outputs[0].id: 1.5}

    def recomputed(prices):
        priced = candidates_of(step, SQUARE, SQUARE, SQUARE, prices=prices)
        cut = minimum_cut(priced, 1.0, surcharge=surcharge)
        return [priced.view.nodes[i].op_type for i in sorted(cut.recomputed)]

    # A dear op at 0.4 of its bytes is done again if keeping its result costs half as much again.
    assert recomputed(CPU) == ["Tanh", "Mul"]
    thousand = {**CPU.apart, Cost.DEAR: tuple(1000 * s for s in CPU.apart[Cost.DEAR])}
    dear = measured(bytes_per_second=1e8, sizes=CPU.sizes, apart=thousand, fused=CPU.fused)
    assert recomputed(dear) == ["Mul"]


def test_the_size_of_an_op_decides_its_price():
    prices = measured(sizes=(SIZE, 2 * SIZE))
    candidates = candidates_of(step, SQUARE, SQUARE, SQUARE, prices=prices)
    tanh = node(candidates.view, "Tanh")
    price = cost.recompute_price(tanh, tanh.outputs[0], False, candidates.prices)
    assert math.isclose(price, SIZE)
