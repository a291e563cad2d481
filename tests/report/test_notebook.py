import html.parser

import pytest
import tensorflow as tf
from reports import NASTY, large_report, nasty_report, saved_model_report, step_report
from traced import numbers

import nested_fad_tf as nfad
from nested_fad_tf.report.allocations import LiveTensor
from nested_fad_tf.report.memory import Measurement
from nested_fad_tf.report.summary import Report
from nested_fad_tf.report.units import readable


class Parts(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in ("wbr", "br", "path") else [tag]

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def shown(item) -> Parts:
    parts = Parts(item._repr_html_())
    assert not parts.open
    # Notebooks may be shown where scripts and styles are taken out.
    assert not {"script", "style"} & set(parts.tags)
    return parts


def test_a_report_shows_figures_curve_and_table():
    report = step_report()
    parts = shown(report)
    assert readable(report.predicted_peak_after) in parts.text
    assert parts.tags.count("path") == 2
    assert parts.tags.count("tr") == 1 + min(8, len(report.kept))


def test_a_report_is_compact():
    report = large_report()
    assert len(report._repr_html_()) < 10_000
    assert f"and {len(report.kept) - 8} more" in shown(report).text


@pytest.mark.parametrize(
    "report",
    [
        Report("f", False, "because", "auto"),
        saved_model_report(Report("call", False, "because", "auto")),
    ],
)
def test_a_report_on_nothing_says_why(report):
    parts = shown(report)
    assert "because" in parts.text
    assert "path" not in parts.tags


def test_names_are_escaped():
    parts = shown(nasty_report())
    assert "img" not in parts.tags
    assert NASTY in parts.text


def test_a_measurement_shows_peak_time_and_curve():
    x = numbers(64, 64)
    measured = nfad.measure(tf.function(lambda x: tf.exp(x @ x) @ x), x, runs=2)
    parts = shown(measured)
    assert readable(measured.peak_bytes) in parts.text
    assert "median of 2" in parts.text
    assert measured.method in parts.text
    assert ("path" in parts.tags) == bool(measured.timeline)


def test_a_measurement_without_a_timeline_and_with_a_long_one():
    coarse = Measurement(5, 5, 0.1, (0.1,), (), (), "resident set", unknown_frees=3)
    parts = shown(coarse)
    assert "path" not in parts.tags
    assert "upper bound" in parts.text
    live = tuple(LiveTensor(NASTY, 4, "[1]", "float32") for _ in range(50))
    long = tuple((i / 1e6, i % 977) for i in range(100_000))
    measured = Measurement(976, 976, 0.1, (0.1,), long, live, "profiler")
    assert len(measured._repr_html_()) < 20_000
    assert shown(measured).tags.count("tr") == 9
