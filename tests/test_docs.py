"""The documentation: code runs and prints what is shown, links and reasons are complete."""

import ast
import dataclasses
import json
import re
import unicodedata

import pages
import pytest

import nested_fad_tf as nfad
from nested_fad_tf.bench import budget_points, command, convergence, largest_batch, paper

_PACKAGE = pages.REPOSITORY / "nested_fad_tf"
_PAGES = [pages.REPOSITORY / "README.md", *sorted((pages.REPOSITORY / "docs").glob("*.md"))]
# README.md's code runs in test_readme.py; docs/index.md shows the same in short.
_WITH_CODE = [
    "docs/quickstart.md",
    "docs/faq.md",
    "docs/guide.md",
    "docs/how_it_works.md",
    "docs/adding_an_op.md",
]


def _id(page):
    return str(page.relative_to(pages.REPOSITORY))


@pytest.mark.parametrize("page", _WITH_CODE)
def test_code_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    blocks = list(pages.blocks(pages.read(page)))
    assert blocks
    monkeypatch.chdir(tmp_path)
    pages.run(blocks, tmp_path, lambda: capsys.readouterr().out)


def _anchor(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[`*]", "", heading).strip().lower()
    kept = "".join(c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN")
    return kept.replace(" ", "-")


def _anchors(page):
    text = pages.FENCE.sub("", page.read_text(encoding="utf-8"))
    return {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", _PAGES, ids=_id)
def test_links_lead_somewhere(page):
    text = pages.FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in _anchors(file), f"{target}: no such heading"


@pytest.mark.parametrize("page", _PAGES, ids=_id)
def test_commands_are_understood(page):
    pages.check_commands(page.read_text(encoding="utf-8"))


def test_commands_that_are_not_there_are_found():
    for line in (
        "nested-fad-tf trian",
        "scripts/tset",
        "pip install .[doc]",
        "scripts/fuzz --hard",
    ):
        with pytest.raises((AssertionError, OSError, KeyError)):
            pages.check_commands(f"```sh\n{line}\n```\n")


def test_every_option_is_in_the_guide_with_its_default():
    rows = dict(
        re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", pages.read("docs/guide.md"), re.MULTILINE)
    )
    for field in dataclasses.fields(nfad.Options):
        assert field.name in rows, f"{field.name} is not in the table of options"
        assert ast.literal_eval(rows[field.name]) == field.default


def test_every_preset_is_in_the_guide():
    for preset in (pages.REPOSITORY / "configs").glob("*.toml"):
        assert f"| `{preset.stem}` |" in pages.read("docs/guide.md")


def _sentences(path):
    """Texts for reports: constants of a module, and what `recompute_ban` returns."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        parts = []
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            parts = [node.value]
        elif isinstance(node, ast.FunctionDef) and node.name == "recompute_ban":
            parts = [r.value for r in ast.walk(node) if isinstance(r, ast.Return)]
        for part in parts:
            text = getattr(part, "value", None)
            if isinstance(text, str) and text.count(" ") >= 2:
                yield text


def _reasons():
    files = [
        _PACKAGE / "functions.py",
        _PACKAGE / "pipeline.py",
        _PACKAGE / "graph/versions.py",
        *(_PACKAGE / "plan").glob("*.py"),
    ]
    return sorted({text for file in files for text in _sentences(file)})


def test_reasons_are_found():
    assert len(_reasons()) >= 8


@pytest.mark.parametrize("reason", _reasons())
def test_every_reason_is_explained(reason):
    assert reason in pages.read("docs/limits.md")


def _marked(file, name):
    """What stands between two marks in a page."""
    return pages.read(file).partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("docs/comparison.md", "peers"),
        ("docs/results.md", "activations"),
        ("docs/results.md", "derivatives"),
    ],
)
def test_summaries_are_what_was_measured(page, name):
    results = json.loads(pages.read(f"docs/results/{name}.json"))["results"]
    assert _marked(page, name).strip() == command.summary_table(results)


def _rows(name, kind, row):
    return command.read(pages.REPOSITORY / "docs" / "results" / f"{name}.json", kind, row)


def test_what_is_said_of_convergence_batches_and_budgets_is_what_was_measured():
    runs = _rows("convergence", "convergence", convergence.Run)
    costs = _rows("convergence", "costs", convergence.Cost)
    rows = _rows("batch", "batch", largest_batch.BatchRow)
    points = _rows("budgets", "budgets", budget_points.Point)
    assert _marked("docs/results.md", "convergence").strip() == convergence.table(runs, costs)
    assert _marked("docs/results.md", "batch").strip() == largest_batch.table(rows)
    assert _marked("docs/results.md", "budgets").strip() == budget_points.table(points)


def test_what_is_said_of_the_paper_is_what_was_measured():
    results = json.loads(pages.read("docs/results/paper.json"))["results"]
    assert _marked("docs/results.md", "paper").strip() == paper.findings(paper.compare(results))


def test_extras_and_requirements_are_explained():
    text = pages.read("docs/dependencies.md")
    for name, bound in re.findall(
        r"^ {4}([\w-]+)>=([\d.]+)$", pages.read("setup.cfg"), re.MULTILINE
    ):
        assert re.search(rf"{name}( >= | \| ){re.escape(bound)}", text), f"{name}>={bound}"


@pytest.mark.parametrize("detailed", [False, True])
def test_summary_fits_100_columns(detailed):
    from nested_fad_tf.report.summary import ChainReport, Kept, Report

    scope = "/".join(f"a_model_with_long_names_{i}" for i in range(12))
    kept = Kept(f"{scope}:0", scope, "Mul", (1 << 20, 1 << 20, 1 << 20, None), "float32", 7, scope)
    chain = ChainReport(scope, ("Mul",) * 99, "recompute", 1 << 45, 1 << 44, scope)
    report = Report(
        scope, True, scope, "auto", (chain,), (kept,) * 30,
        kept_bytes_before=1 << 45, kept_bytes_after=1 << 44,
        predicted_peak_before=1 << 45, predicted_peak_after=1 << 44,
        nodes_before=10**6, nodes_after=10**6, seconds=1e4, nominal_size=10**6,
    )  # fmt: skip
    lines = []
    report.summary(print_fn=lines.append, detailed=detailed)
    assert len(lines) > 10
    assert max(map(len, lines)) <= 100
