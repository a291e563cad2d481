"""The figures in docs/images show what was measured, and what the package does today."""

import re
import runpy

import pages
import pytest
from traced import gelu_by_erfc

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install .[plots]")

_TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


def _labels(figure):
    return sorted(_TEXT.findall(figure.read_text(encoding="utf-8")))


def test_the_peaks_are_those_of_the_results(tmp_path):
    script = runpy.run_path(str(pages.REPOSITORY / "scripts" / "plot_results.py"))
    measured = pages.REPOSITORY / "docs" / "results" / "memory.json"
    script["draw"](script["read"]([measured]), tmp_path / "peak.svg")
    committed = pages.REPOSITORY / "docs" / "images" / "peak.svg"
    assert _labels(tmp_path / "peak.svg") == _labels(committed), "run scripts/plot_results.py"


@pytest.mark.skipif(not gelu_by_erfc(), reason="drawn of a GELU by erfc")
def test_figures_of_the_gelu_are_up_to_date(tmp_path):
    script = runpy.run_path(str(pages.REPOSITORY / "scripts" / "draw_gelu.py"))
    script["draw_all"](tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(f"{name}.svg" for name in script["FIGURES"])
    for name in drawn:
        labels = _labels(tmp_path / name)
        assert labels
        committed = pages.REPOSITORY / "docs" / "images" / name
        assert labels == _labels(committed), f"{name}: run scripts/draw_gelu.py"
