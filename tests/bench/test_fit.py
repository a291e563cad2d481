"""The benchmark of `fit`: the same losses, in the part of the memory that a loop by hand needs."""

import pytest

from nested_fad_tf.bench import fit


def test_a_row(monkeypatch):
    def ask(module, arguments):
        assert module == fit.__name__
        return fit.train(**arguments)

    monkeypatch.setattr(fit.request, "ask", ask)
    row = fit.fit_row("mish_mlp:batch=1024", loop_gain=2.5)
    assert len(row.plain) == len(row.rewritten) == 6
    assert row.plain[-1] < row.plain[0]
    assert row.worst_difference < 1e-5
    assert row.gain > 0.7 * row.loop_gain


def test_a_failing_process_says_what_it_was_asked(monkeypatch):
    with pytest.raises(
        RuntimeError, match=r"(?s)model=no_such_model, strategy=plain.*no model named"
    ):
        fit.fit_row("no_such_model")
