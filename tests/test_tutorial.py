"""The tutorial runs top to bottom, and prints what its committed outputs show."""

import re

import pages
import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install .[dev]")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install .[dev]")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install .[dev]")

_TUTORIAL = pages.REPOSITORY / "docs" / "tutorial.ipynb"


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _printed(cell):
    """What a cell printed, numbers left out: losses, seconds and peaks differ between machines."""
    text = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
    return [re.sub(r"\d+(\.\d+)?", "#", " ".join(line.split())) for line in text.splitlines()]


def _pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_the_committed_outputs_are_of_one_run():
    cells = _code(nbformat.read(_TUTORIAL, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.output_type in ("stream", "display_data") for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert sum(map(_pictures, cells)) >= 1
    assert _TUTORIAL.stat().st_size < 200_000


def test_it_runs_and_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(pages.REPOSITORY))
    shown = nbformat.read(_TUTORIAL, as_version=4)
    ran = nbformat.read(_TUTORIAL, as_version=4)
    client = nbclient.NotebookClient(ran, timeout=300, resources={"metadata": {"path": tmp_path}})
    client.execute()
    for before, now in zip(_code(shown), _code(ran), strict=True):
        assert _printed(now) == _printed(before), now.source
        assert _pictures(now) == _pictures(before)
