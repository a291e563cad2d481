"""The documentation: code runs and prints what is shown, links and reasons are complete."""

import ast
import dataclasses
import pathlib
import re
import runpy
import shlex
import shutil
import unicodedata

import keras
import pytest

import nested_fad_tf as nfad
from nested_fad_tf.cli import main

_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
_PACKAGE = _REPOSITORY / "nested_fad_tf"
_PAGES = [_REPOSITORY / "README.md", *sorted((_REPOSITORY / "docs").glob("*.md"))]
_WITH_CODE = [
    "README.md",
    "docs/quickstart.md",
    "docs/faq.md",
    "docs/guide.md",
    "docs/how_it_works.md",
    "docs/adding_an_op.md",
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = "@@ block "


def _read(name):
    return (_REPOSITORY / name).read_text(encoding="utf-8")


def _id(page):
    return str(page.relative_to(_REPOSITORY))


@dataclasses.dataclass
class _Block:
    """Python code, and the output the page shows right below it, if any."""

    code: str
    output: str | None


def _blocks(text):
    fences = [(m[1], m[2], m.start(), m.end()) for m in _FENCE.finditer(text)]
    for index, (language, code, _, end) in enumerate(fences):
        if language != "python":
            continue
        below = fences[index + 1] if index + 1 < len(fences) else None
        shown = below and below[0] == "text" and not text[end : below[2]].strip()
        yield _Block(code, below[1] if shown else None)


def _comparable(output):
    """Output without what differs from run to run: how long the pass took, and trailing spaces."""
    output = re.sub(r"rewritten in [\d.]+ s", "rewritten in ... s", output)
    return [line.rstrip() for line in output.strip().splitlines()]


@pytest.mark.parametrize("page", _WITH_CODE)
def test_code_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    blocks = list(_blocks(_read(page)))
    assert blocks
    # A file, since AutoGraph reads the source of what it converts.
    script = tmp_path / "page.py"
    marked = (f"print({_MARK + str(i)!r})\n{block.code}" for i, block in enumerate(blocks))
    script.write_text("\n".join(marked), encoding="utf-8")
    shutil.copytree(_REPOSITORY / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    keras.utils.clear_session()  # Keras counts layers, and names them accordingly.
    runpy.run_path(str(script))
    outputs = re.split(rf"^{_MARK}\d+\n", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    for block, output in zip(blocks, outputs, strict=True):
        if block.output is not None:
            assert _comparable(output) == _comparable(block.output), block.code


def _anchor(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[`*]", "", heading).strip().lower()
    kept = "".join(c for c in text if c in " -_" or unicodedata.category(c)[0] in "LN")
    return kept.replace(" ", "-")


def _anchors(page):
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", _PAGES, ids=_id)
def test_links_lead_somewhere(page):
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
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
    commands = {command.name: command for command in main.COMMANDS}
    for language, code in _FENCE.findall(page.read_text(encoding="utf-8")):
        for line in code.splitlines() if language == "sh" else ():
            if not line.startswith("nested-fad-tf "):
                continue
            name, *arguments = shlex.split(line, comments=True)[1:]
            if "--help" not in arguments:
                main._flag_values(commands[name])([name, *arguments])


def test_every_option_is_in_the_guide_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", _read("docs/guide.md"), re.MULTILINE))
    for field in dataclasses.fields(nfad.Options):
        assert field.name in rows, f"{field.name} is not in the table of options"
        assert ast.literal_eval(rows[field.name]) == field.default


def test_every_preset_is_in_the_guide():
    for preset in (_REPOSITORY / "configs").glob("*.toml"):
        assert f"| `{preset.stem}` |" in _read("docs/guide.md")


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
    files = [_PACKAGE / "functions.py", _PACKAGE / "pipeline.py", *(_PACKAGE / "plan").glob("*.py")]
    return sorted({text for file in files for text in _sentences(file)})


def test_reasons_are_found():
    assert len(_reasons()) >= 8


@pytest.mark.parametrize("reason", _reasons())
def test_every_reason_is_explained(reason):
    assert reason in _read("docs/limits.md")


def test_extras_and_requirements_are_explained():
    text = _read("docs/dependencies.md")
    for name, bound in re.findall(r"^ {4}([\w-]+)>=([\d.]+)$", _read("setup.cfg"), re.MULTILINE):
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
