"""The figures: what is in them, and that they appear whole or not at all."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import tensorflow as tf
from reports import NASTY, OPTIONS, large_report, saved_model_report, step_report
from traced import numbers

import nested_fad_tf as nfad
from nested_fad_tf.report.memory import LiveTensor, Measurement
from nested_fad_tf.report.summary import Kept, Report

matplotlib = pytest.importorskip("matplotlib")
from nested_fad_tf.report import plots  # noqa: E402

PNG = b"\x89PNG"


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def inside(figure) -> bool:
    """Whether all that is drawn lies inside the figure."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return box.x0 > -0.02 and box.x1 < width + 0.02 and box.y0 > -0.02 and box.y1 < height + 0.02


@pytest.fixture(scope="module")
def report() -> Report:
    return step_report()


def test_memory_marks_both_peaks_and_says_what_is_live(report):
    figure = plots.memory(report)
    upper, lower = figure.axes
    curves = {line.get_label(): line for line in upper.get_lines()}
    unit = 1024.0
    for name, peak in (
        ("plain TensorFlow", report.predicted_peak_before),
        ("rewritten", report.predicted_peak_after),
    ):
        assert max(curves[name].get_ydata()) * unit == pytest.approx(peak)
    found = texts(figure)
    assert sum(text.startswith("peak ") for text in found) == 2
    assert {"forward pass", "backward pass"} <= set(found)
    assert report.timeline_before.live[0].name in " ".join(texts(lower.figure))
    assert inside(figure)


def test_memory_of_a_function_left_alone_is_one_curve():
    figure = plots.memory(step_report(min_bytes=1 << 30))
    assert "rewritten" not in texts(figure)


def test_memory_needs_a_backward_pass():
    with pytest.raises(ValueError, match="no backward pass"):
        plots.memory(Report("call", False, "because", "auto"))


def test_kept_has_a_bar_for_each_layer_before_and_after(report):
    figure = plots.kept(report)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == sorted({f"layer_{i}" for i in range(4)})
    before, after = axes.containers
    assert sum(bar.get_width() for bar in before) * 1024 == report.kept_bytes_before
    assert sum(bar.get_width() for bar in after) * 1024 == report.kept_bytes_after
    assert inside(figure)


def test_kept_of_many_layers_sums_up_the_smallest():
    report = large_report(layers=200)
    (axes,) = plots.kept(report).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == 24
    assert names[-1] == "177 others"
    total = sum(bar.get_width() for bar in axes.containers[0])
    assert total * 2**20 == pytest.approx(sum(k.bytes for k in report.kept_before))


def test_kept_needs_something_that_is_kept():
    with pytest.raises(ValueError, match="keeps nothing"):
        plots.kept(Report("f", False, "because", "auto"))


def measurement(
    peak: int, timeline=((0.0, 0), (0.1, 1), (0.2, 0)), backward: float | None = None
) -> Measurement:
    scaled = tuple((time, size * peak) for time, size in timeline)
    live = (LiveTensor("net/layer_1/Tanh", peak, "[1]", "float32"), LiveTensor("", 1, "", ""))
    return Measurement(
        peak, peak, 0.1, (0.1,), scaled, live, "profiler", backward_from=backward
    )  # fmt: skip


def curves_of(axes) -> dict[str, matplotlib.lines.Line2D]:
    return {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"}


def shaded(axes) -> list[tuple[float, float]]:
    """From where to where the background is shaded."""
    spans = [p for p in axes.patches if isinstance(p, matplotlib.patches.Rectangle)]
    return [(p.get_x(), p.get_x() + p.get_width()) for p in spans]


def test_measured_by_the_clock_where_the_passes_are_not_known():
    pairs = [(None, None), (0.05, None), (None, 0.05)]
    for before, after in pairs:
        figure = plots.measured(
            measurement(4 << 20, backward=before), measurement(1 << 20, backward=after)
        )
        upper, _ = figure.axes
        plain, rewritten = curves_of(upper).values()
        assert (max(plain.get_ydata()), max(rewritten.get_ydata())) == (4.0, 1.0)
        assert max(plain.get_xdata()) == pytest.approx(200)
        assert not shaded(upper)
        assert "backward pass" not in texts(figure)
    with pytest.raises(ValueError, match="no timeline"):
        plots.measured(measurement(4), measurement(4, ()))


def test_measured_shades_the_passes_and_lists_what_is_live():
    plain = measurement(4 << 20, backward=0.05)
    slower = measurement(1 << 20, ((0.0, 0), (0.3, 1), (0.4, 0)), backward=0.3)
    figure = plots.measured(plain, slower)
    upper, _ = figure.axes
    # Where plain TensorFlow's begins; the other one's is drawn there, too.
    assert shaded(upper) == [(pytest.approx(0.25), pytest.approx(1.0))]
    curves = curves_of(upper)
    assert upper.get_xlabel().endswith("plain TensorFlow 50 + 150 ms, rewritten 300 + 100 ms")
    line = curves["rewritten"]
    assert line.get_xdata()[list(line.get_ydata()).index(1.0)] == pytest.approx(0.25)
    found = texts(figure)
    assert {"forward pass", "backward pass", "peak 4.0 MiB", "peak 1.0 MiB"} <= set(found)
    assert {"net/layer/Tanh", "(names no op: compiled code)"} <= set(found)
    assert inside(figure)


def test_measured_steps_are_shaded_where_their_backward_pass_begins():
    x, w = numbers(512, 256), numbers(256, 256)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for i in range(4):
                with tf.name_scope(f"layer_{i}"):
                    y = tf.nn.gelu(y @ w)
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, w)

    plain = nfad.measure(tf.function(step), x, runs=1)
    rewritten = nfad.measure(nfad.function(step, options=OPTIONS), x, runs=1)
    if not plain.timeline:
        pytest.skip("the allocator tells nothing here")
    upper, _ = plots.measured(plain, rewritten).axes
    assert shaded(upper) == [(plain.backward_from / plain.timeline[-1][0], 1.0)]


def bench(*rows):
    """Results of a benchmark: (model, strategy, peak, time) each, plain at 100 and 1."""
    return {
        "results": {
            "memory": [
                {"model": m, "strategy": s, "peak": peak, "plain_peak": 100}
                for m, s, peak, _ in rows
            ],
            "time": [{"model": m, "strategy": s, "ratio": time} for m, s, _, time in rows],
        }
    }


ROWS = [("net", "auto", 40, 0.95), ("net", "forward_ad", 60, 0.9), ("net", "recompute", 45, 1.2)]


def front_of(figure) -> set[tuple[float, float]]:
    (line,) = (ln for ln in figure.axes[0].get_lines() if str(ln.get_label()).startswith("front"))
    times, peaks = line.get_xdata(), line.get_ydata()
    return set(zip(times[1:-1], peaks[1:-1], strict=True))


def test_pareto_names_points_and_draws_the_front():
    figure = plots.pareto(bench(*ROWS))
    assert {"auto", "forward_ad", "recompute", "plain"} <= set(texts(figure))
    # recompute is slower than auto and needs more.
    assert front_of(figure) == {(0.9, 0.6), (0.95, 0.4)}
    assert inside(figure)


def test_pareto_of_several_models_names_the_models():
    rows = [(name, "auto", 30 + i, 1.0 - i / 100) for i, name in enumerate("abcdefgh")]
    figure = plots.pareto(bench(*rows))
    assert set("abcdefgh") <= set(texts(figure))
    assert inside(figure)
    both = plots.pareto(bench(*rows, ("a", "recompute", 20, 1.5)))
    assert {"a, auto", "a, recompute"} <= set(texts(both))


def test_pareto_reads_what_bench_writes(tmp_path):
    content = bench(*ROWS)["results"]
    paths = []
    for kind in content:
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps({"results": {kind: content[kind]}}), encoding="utf-8")
        paths.append(path)
    assert front_of(plots.pareto(paths)) == front_of(plots.pareto(bench(*ROWS)))
    with pytest.raises(ValueError, match="both a memory peak and a time"):
        plots.pareto(paths[0])
    paths[0].write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"memory\.json was not written by"):
        plots.pareto(paths[0])


def test_pareto_reads_the_results_of_this_repository():
    results = pathlib.Path(__file__).resolve().parents[2] / "docs/results"
    figure = plots.pareto([results / "memory.json", results / "time.json"])
    assert {"bert", "resnet50"} <= set(texts(figure))
    assert inside(figure)


def test_a_report_is_drawn_as_svg_and_png(report, tmp_path):
    folder = tmp_path / "new" / "figures"
    drawn = report.plot(folder)
    assert sorted(p.name for p in drawn) == [
        "kept.png", "kept.svg", "memory.png", "memory.svg",
    ]  # fmt: skip
    assert sorted(folder.iterdir()) == sorted(drawn)
    for path in drawn:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(PNG)
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    again = {path: path.read_bytes() for path in drawn}
    report.plot(folder)
    assert {path: path.read_bytes() for path in drawn} == again


def test_a_report_on_a_saved_model_is_drawn(report, tmp_path):
    model = saved_model_report(Report("call", False, "because", "auto"), report)
    assert len(model.plot(tmp_path)) == 4
    assert Report("f", False, "because", "auto").plot(tmp_path / "none") == []


def test_names_may_be_anything():
    kept = Kept("a$b:0", "$x_{1}$/" + NASTY, "Mul", (1,), "float32", 4096, "why")
    report = Report(
        "$f$", True, "", "auto", (), (kept,), 4096, 4096, kept_before=(kept,)
    )  # fmt: skip
    figure = plots.kept(report)
    figure.draw_without_rendering()
    assert any(NASTY.rpartition("/")[2] in text for text in texts(figure))


def test_a_failed_drawing_leaves_nothing(report, tmp_path):
    class Broken(matplotlib.figure.Figure):
        def savefig(self, file, *, format, **kwargs):
            if format == "png":
                raise OSError("disk full")
            super().savefig(file, format=format, **kwargs)

    with pytest.raises(OSError, match="disk full"):
        plots.save(Broken(), tmp_path / "figures", "memory")
    assert not (tmp_path / "figures").exists()


def test_without_matplotlib_it_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "try:\n    from nested_fad_tf.report import plots\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'nested-fad-tf[plots]'" in done.stdout
