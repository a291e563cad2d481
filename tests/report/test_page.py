"""The page as text; tests/browser looks at it as a browser does."""

from __future__ import annotations

import html.parser
import json
import re

import pytest
from reports import (
    NASTY,
    derivative_report,
    large_report,
    nasty_report,
    saved_model_report,
    step_report,
)

from nested_fad_tf.report.page import page
from nested_fad_tf.report.summary import Report
from nested_fad_tf.report.units import readable


class Parts(html.parser.HTMLParser):
    """Elements and their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)
        else:
            self.text += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def report() -> Report:
    return step_report()


def test_the_page_has_the_figures(report):
    text = Parts(page(report)).text
    for size in (
        report.kept_bytes_before, report.kept_bytes_after,
        report.predicted_peak_before, report.predicted_peak_after,
    ):  # fmt: skip
        assert readable(size) in text
    assert "rewritten" in text
    assert "can be rewritten" in Parts(page(report, applied=False)).text


def test_the_page_loads_nothing(report):
    text = page(report)
    parts = Parts(text)
    tags = {tag for tag, _ in parts.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed"}
    assert not any("src" in attributes for _, attributes in parts.elements)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    policy = next(
        a["content"] for t, a in parts.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_tensors_are_listed_before_and_after(report):
    rows = Parts(page(report)).data["tensors"]
    assert sum(row[5] for row in rows) == report.kept_bytes_before
    assert sum(row[6] for row in rows) == report.kept_bytes_after
    layers = {row[1] for row in rows}
    assert "block/layer_0" in layers
    assert not any("gradient_tape" in layer for layer in layers)


def test_reasons_are_said_once_and_fit(report):
    data = Parts(page(report)).data
    assert len(set(data["whys"])) == len(data["whys"])
    for *_, before, after, why in data["tensors"]:
        dropped = data["whys"][why].startswith("no longer kept")
        assert dropped == (before > 0 == after)


@pytest.mark.parametrize(
    ("make", "why"), [(step_report, "computes it again"), (derivative_report, "a derivative is")]
)
def test_what_is_dropped_says_what_happens_instead(make, why):
    data = Parts(page(make())).data
    assert any(why in text for text in data["whys"])


def test_chains_have_formula_decision_reason_and_graph(report):
    chains = Parts(page(report)).data["chains"]
    assert [c["name"] for c in chains] == [f"block/layer_{i}" for i in range(4)]
    for chain, expected in zip(chains, report.chains, strict=True):
        assert chain["action"] == expected.action
        assert chain["why"] == expected.why
        assert chain["formula"][0] == "y = a · tanh(softplus(a))"
        kinds = [node[2] for node in chain["nodes"]]
        assert kinds.count("chain") == 3
        assert {"input", "backward"} <= set(kinds)


def test_kept_derivatives_are_drawn_and_counted():
    report = derivative_report()
    chain = report.chains[1]
    drawn = [n for n in chain.neighbours if n.kind == "derivative"]
    assert len(drawn) == 1
    assert drawn[0].kept == "after"
    assert drawn[0].reads
    assert chain.bytes_after == 2 * 512 * 256 * 4  # the derivative and the chain's result
    assert sum(k.bytes for k in report.kept) == report.kept_bytes_after
    added = [k for k in report.kept if k.name.endswith("/derivative:0")]
    assert len(added) == 4
    assert all("block/layer_" in k.layer for k in added)


def test_a_page_of_a_saved_model_tells_functions_apart(report):
    other = step_report(depth=2)
    text = page(saved_model_report(report, other))
    data = Parts(text).data
    assert data["functions"] == ["step", "step"]
    assert {row[0] for row in data["tensors"]} == {0, 1}
    assert {chain["function"] for chain in data["chains"]} == {0, 1}
    ids = {attributes.get("id") for _, attributes in Parts(text).elements}
    assert {"functions", "tensor-function"} <= ids


def test_a_function_left_alone_says_why():
    text = Parts(page(Report("f", False, "because of this", "auto"))).text
    assert "because of this" in text
    assert "left as it was" in text


def test_names_cannot_end_what_they_are_in():
    parts = Parts(page(nasty_report()))
    assert "img" not in {tag for tag, _ in parts.elements}
    assert not any(key.startswith("on") for _, a in parts.elements for key in a)
    assert parts.text.count(NASTY) >= 2
    (row,) = parts.data["tensors"]
    assert NASTY in parts.data["whys"]
    assert row[3] == NASTY


def test_a_page_of_ten_thousand_ops_is_small():
    assert len(page(large_report()).encode()) < 2 << 20


def test_the_file_appears_whole(report, tmp_path):
    path = tmp_path / "report.html"
    report.to_html(path)
    assert path.read_text(encoding="utf-8") == page(report)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        report.to_html(tmp_path / "missing" / "report.html")
