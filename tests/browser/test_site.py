"""The documentation as a site: it builds without a warning, and its pages show what they should."""

import importlib.util
import os
import subprocess
import sys

import pages
import pytest

_NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if _MISSING:
        pytest.skip(f"needs {', '.join(_MISSING)}: pip install .[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=pages.REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_builds_without_a_warning_and_has_every_page(site):
    for source in (pages.REPOSITORY / "docs").glob("*.md"):
        assert (site / f"{source.stem}.html").exists()
    assert (site / "tutorial.html").exists()


def test_the_reference_has_every_public_name(site):
    import nested_fad_tf as nfad

    text = (site / "api.html").read_text(encoding="utf-8")
    modules = {"keras", "saved_model", "testing"}
    for name in set(nfad.__all__) - modules:
        assert f".{name}" in text, f"{name} is not in docs/api.md"
    for module in modules:
        for name in getattr(getattr(nfad, module), "__all__", ["assert_same_step"]):
            assert f".{name}" in text, f"{module}.{name} is not in docs/api.md"


@pytest.mark.parametrize("name", ["index", "how_it_works", "tutorial", "api", "faq"])
def test_a_page_shows_its_pictures_and_fits(site, page, name):
    page.goto((site / f"{name}.html").as_uri())
    broken = (
        "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
    )
    assert page.evaluate(broken) == []
    assert page.locator("h1").count() >= 1
    page.set_viewport_size({"width": 390, "height": 800})
    body = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(body), "wider than a phone"
