from __future__ import annotations

import dataclasses
import json

import pytest
import tensorflow as tf
from traced import mish, numbers

import nested_fad_tf as nfad
from nested_fad_tf.report import building
from nested_fad_tf.report.neighbours import Neighbour
from nested_fad_tf.report.summary import ChainReport, Kept, Report
from nested_fad_tf.report.timeline import Live, Timeline

OPTIONS = nfad.Options(fuse="ops", min_bytes=256, on_error="raise")
MIB = 2**20


def report_of(*, rows: int | None = 32, depth=4, scope="layer", activation=mish, **options):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for i in range(depth):
                with tf.name_scope(f"{scope}_{i}"):
                    y = activation(y @ w)
            loss = tf.reduce_sum(y)
        return loss, tape.gradient(loss, w)

    specs = tf.TensorSpec([rows, 32]), tf.TensorSpec([32, 32])
    return nfad.explain(step, *specs, options=OPTIONS.replace(**options))


def lines_of(report: Report, **kwargs) -> list[str]:
    lines: list[str] = []
    report.summary(print_fn=lines.append, **kwargs)
    return lines


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of()


def test_what_a_report_says(report):
    assert report.changed
    assert report.reason == ""
    assert report.function_name == "step"
    assert report.strategy == "auto"
    assert 0 < report.kept_bytes_after < report.kept_bytes_before
    assert 0 < report.predicted_peak_after < report.predicted_peak_before
    assert report.kept_bytes_after == sum(k.bytes for k in report.kept)
    assert report.nominal_size is None
    assert len(report.gradient_seeds) == 1
    assert [k.bytes for k in report.kept] == sorted((k.bytes for k in report.kept), reverse=True)
    kept = report.kept[0]
    assert kept.layer.startswith("layer_")
    assert kept.name.startswith(kept.layer)
    assert (kept.shape, kept.dtype, kept.bytes) == ((32, 32), "float32", 4096)
    assert all(k.why for k in report.kept)


def test_chains_are_named_after_their_layers(report):
    assert [c.name for c in report.chains] == [f"layer_{i}" for i in range(4)]
    for chain in report.chains:
        assert chain.ops == ("Softplus", "Tanh", "Mul")
        assert chain.action == "recompute"
        assert chain.bytes_after < chain.bytes_before
        assert chain.why


def test_a_summary_has_the_figures(report):
    text = "\n".join(lines_of(report))
    assert text.startswith("step: rewritten (strategy auto)")
    ratio = report.predicted_peak_before / report.predicted_peak_after
    assert f"({ratio:.2f}x)" in text
    assert f"{report.nodes_before} -> {report.nodes_after} ops" in text
    assert "unknown dimensions" not in text
    assert "chains:" not in text


def test_what_is_detailed(report):
    lines = lines_of(report, detailed=True)
    assert len(lines) > len(lines_of(report))
    for kept in report.kept:
        assert any(kept.name in line for line in lines)
    for chain in report.chains:
        assert any(chain.name in line and chain.action in line for line in lines)


def test_a_long_list_is_cut_off():
    report = report_of(depth=14)
    assert len(report.kept) > 10
    lines = lines_of(report)
    assert lines[-1].strip() == f"... and {len(report.kept) - 10} more"
    assert not any("more" in line for line in lines_of(report, detailed=True))


@pytest.mark.parametrize("detailed", [False, True])
@pytest.mark.parametrize("rows", [32, None])
def test_lines_have_at_most_100_columns(detailed, rows):
    scope = "/".join(["a_very_long_name_of_a_block_of_layers"] * 5)
    report = report_of(rows=rows, scope=scope)
    lines = lines_of(report, detailed=detailed)
    assert max(map(len, lines)) <= 100
    # The end of a name tells most.
    assert any(line.rstrip().endswith(report.kept[0].name[-30:]) for line in lines)


def test_lines_have_at_most_100_columns_whatever_the_figures():
    kept = Kept("n" * 300, "l" * 300, "MatMul", (10**9,) * 12, "float32", 10**13, "w" * 300)
    chain = ChainReport("c" * 300, ("Tanh",), "keep derivatives", 10**13, 10**13, "w" * 300)
    report = Report(
        "f" * 300, True, "r" * 300, "auto", (chain,), (kept,) * 12, 10**13, 10**13, 10**13, 10**13,
        10**9, 10**9, 12345.6, 10**6,
    )  # fmt: skip
    assert max(map(len, lines_of(report, detailed=True))) <= 100
    assert max(map(len, lines_of(report))) <= 100


def test_unknown_dimensions_are_noted():
    report = report_of(rows=None, nominal_size=48)
    assert report.nominal_size == 48
    assert any("(unknown dimensions counted as 48)" in line for line in lines_of(report))
    assert report.kept[0].shape == (None, 32)
    assert report.kept[0].bytes == 48 * 32 * 4
    assert any("?x32" in line for line in lines_of(report))


def again(value, kind):
    """What `to_dict` made plain, as the report's own types."""
    nested = {"chains": ChainReport, "neighbours": Neighbour, "live": Live}
    nested |= dict.fromkeys(("kept", "kept_before"), Kept)
    nested |= dict.fromkeys(("timeline_before", "timeline_after"), Timeline)
    if isinstance(value, list):
        return tuple(again(v, kind) for v in value)
    if isinstance(value, dict):
        return kind(**{k: again(v, nested.get(k)) for k, v in value.items()})
    return value


def test_json_round_trip(report, tmp_path):
    path = tmp_path / "report.json"
    report.to_json(path)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read == json.loads(json.dumps(report.to_dict()))

    assert again(read, Report) == report
    report.to_json(str(path))  # overwrites
    assert json.loads(path.read_text(encoding="utf-8")) == read


def test_reports_are_values(report):
    assert report == dataclasses.replace(report)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.changed = False


def test_a_function_left_alone_says_why():
    report = report_of(activation=tf.nn.relu)
    assert not report.changed
    lines = lines_of(report)
    assert lines[0] == "step: left as it was (strategy auto)"
    assert report.reason in lines[1]
    assert report.predicted_peak_after == report.predicted_peak_before
    assert report.nodes_before == report.nodes_after
    assert all(c.action == "left alone" for c in report.chains)


def test_unchanged_reports_have_no_figures():
    report = building.unchanged("f", "because", "recompute", 17)
    assert lines_of(report) == ["f: left as it was (strategy recompute)", "  because"]
    assert (report.nodes_before, report.nodes_after, report.seconds) == (17, 17, 0.0)


def test_kept_bits_count_as_bits():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            h = mish(x @ w)
            mask = tf.random.stateless_uniform([32, 32], (1, 2)) < 0.5
            loss = tf.reduce_sum(mish(tf.where(mask, h, 0.0) @ w))
        return tape.gradient(loss, w)

    report = nfad.explain(step, numbers(32, 32), numbers(32, 32), options=OPTIONS)
    (mask,) = [k for k in report.kept if k.dtype == "bool"]
    assert mask.bytes == 32 * 32 // 8
    assert "(kept as bits)" in mask.why


def test_small_amounts_are_printed_in_mebibytes():
    kept = Kept("a/b:0", "a", "Tanh", (1024, 1024), "float32", 4 * MIB, "why")
    report = Report("f", True, "", "auto", kept=(kept,), predicted_peak_before=8 * MIB)
    assert any(line.split()[:2] == ["4.0", "MiB"] for line in lines_of(report))


def test_it_prints_by_default(report, capsys):
    report.summary()
    assert capsys.readouterr().out.splitlines() == lines_of(report)
