"""Calibration measures, and later plans go by what it wrote."""

from __future__ import annotations

import json

import pytest

from nested_fad_tf.bench import calibration, calibration_run
from nested_fad_tf.errors import CostsError
from nested_fad_tf.ops import elementwise
from nested_fad_tf.ops.entry import Cost
from nested_fad_tf.ops.heavy import Kind
from nested_fad_tf.plan import price_files
from nested_fad_tf.plan.prices import Prices

TINY = {"sizes": (4 << 10, 64 << 10), "ops_each": 1, "rounds": 3}


@pytest.fixture(autouse=True)
def read_anew():
    price_files.forget()
    yield
    price_files.forget()


@pytest.mark.parametrize("cost", list(Cost))
def test_several_ops_of_the_table_stand_for_a_class(cost):
    samples = calibration._samples(cost, calibration.OPS_EACH)
    names = {sample.name for sample in samples}
    assert len(names) == calibration.OPS_EACH
    assert {elementwise.TABLE[name].cost for name in names} == {cost}


def test_a_calibration_measures_and_is_read_by_later_runs(monkeypatch, tmp_path, capsys):
    file, rows = tmp_path / "cache" / "mine.toml", tmp_path / "rows.json"
    monkeypatch.setenv(price_files.VARIABLE, str(file))
    prices = calibration_run.run_calibration(rows, **TINY)
    assert prices.sizes == TINY["sizes"]
    for seconds in (*prices.apart.values(), *prices.fused.values()):
        assert len(seconds) == 2
        assert all(0 < s < 1e-5 for s in seconds)
    assert all(0 < prices.work[kind] < 1e-5 for kind in Kind)
    assert prices.source.startswith("measured ")
    # A second is worth what makes a cheap op cost what it costs by default.
    assert prices.rate(Cost.CHEAP, 64 << 10, fused=False) == pytest.approx(0.03, rel=0.01)

    assert Prices.from_file(file) == prices
    assert price_files.current("CPU") == prices
    table = capsys.readouterr().out
    for words in ("cheap", "by itself", "in a group", "4 KiB", "product", str(file)):
        assert words in table
    content = json.loads(rows.read_text())
    assert len(content["prices"]) == 2 * 3 * 2 + len(Kind) + 1
    assert {row["default_price"] for row in content["prices"]} >= {0.03, 0.08, 0.4}


def test_what_nobody_would_read_is_not_measured(monkeypatch):
    monkeypatch.setenv(price_files.VARIABLE, "default")
    with pytest.raises(CostsError, match="nothing that is measured would be used"):
        calibration_run.run_calibration()


def test_noise_does_not_make_anything_free():
    assert calibration._believed(-1e-9, 5e-10) == pytest.approx(5e-12)
    assert calibration._believed(2e-10, 5e-10) == 2e-10
