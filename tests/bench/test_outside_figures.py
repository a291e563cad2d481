"""The benchmark of functions that are differentiated from outside."""

import pytest

from nested_fad_tf.bench import outside


@pytest.fixture(autouse=True)
def here(monkeypatch):
    def ask(module, arguments):
        assert module == outside.__name__
        return outside.measure(**arguments)

    monkeypatch.setattr(outside.request, "ask", ask)


@pytest.mark.parametrize(
    "case",
    [
        "tf.function in a step",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("eager tape", "loop in a step")),
    ],
)
def test_a_row(case):
    row = outside.outside_row(case)
    assert row.worst_difference < 1e-5
    assert row.peak < 0.75 * row.plain_peak
