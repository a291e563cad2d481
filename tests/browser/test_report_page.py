"""The page of a report in a browser."""

from __future__ import annotations

import pytest
from reports import (
    NASTY,
    derivative_report,
    large_report,
    nasty_report,
    saved_model_report,
    step_report,
)

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect


@pytest.fixture
def opened(page, tmp_path):
    """Opens a report's page and tells what it asked the network for."""

    def open_page(report):
        requests = []
        path = tmp_path / "report.html"
        report.to_html(path)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page, requests

    return open_page


def column(page, title):
    """The texts in a column of the table of tensors."""
    titles = page.locator("#tensor-table th").all_inner_texts()
    number = 1 + [t.strip() for t in titles].index(title)
    return page.locator(f"#tensor-table tbody td:nth-child({number})").all_inner_texts()


def click_title(page, title):
    page.locator("#tensor-table th button", has_text=title).click()


def count(page, which="tensor"):
    return int(page.locator(f"#{which}-count").inner_text().split()[0])


def test_nothing_is_loaded_but_the_page(opened):
    page, requests = opened(step_report())
    page.wait_for_load_state("networkidle")
    assert len(requests) == 1
    assert requests[0].startswith("file:")


def test_a_column_sorts_both_ways(opened):
    page, _ = opened(step_report())
    click_title(page, "Op")
    up = column(page, "Op")
    assert up == sorted(up)
    assert len(set(up)) > 1
    heading = page.locator("#tensor-table th", has_text="Op")
    assert heading.get_attribute("aria-sort") == "ascending"
    click_title(page, "Op")
    assert column(page, "Op") == sorted(up, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"


def test_numbers_sort_by_size(opened):
    page, _ = opened(large_report(layers=2))
    click_title(page, "Now")
    sizes = column(page, "Now")
    assert sizes[-1] == "–"
    kept = [float(size.split()[0]) for size in sizes if size != "–"]
    assert kept == sorted(kept, reverse=True)


def test_search_and_status_narrow_the_table(opened):
    report = step_report()
    page, _ = opened(report)
    everything = count(page)
    page.fill("#tensor-search", "layer_2")
    expect(page.locator("#tensor-count")).not_to_contain_text(f"{everything} of")
    layers = column(page, "Layer")
    assert 0 < len(layers) == count(page) < everything
    assert all("layer_2" in layer.replace("\n", "") for layer in layers)
    page.select_option("#tensor-status", "dropped")
    assert set(column(page, "Now")) == {"–"}
    page.fill("#tensor-search", "nothing is called this")
    expect(page.locator("#tensor-table tbody tr")).to_have_count(0)
    assert count(page) == 0


def test_a_chain_opens_with_formula_reason_and_graph(opened):
    report = step_report()
    page, _ = opened(report)
    chain = page.locator("#chain-list details").first
    assert chain.locator("svg").count() == 0
    chain.locator("summary").click()
    assert "y = a · tanh(softplus(a))" in chain.locator("pre").inner_text()
    assert report.chains[0].why in chain.inner_text()
    graph = chain.locator("svg")
    assert graph.locator("g.chain").count() == 3
    assert graph.locator("path").count() >= 3
    box = graph.bounding_box()
    assert box["width"] > 100
    assert box["height"] > 100
    for name in ("block/layer", "MatMul"):
        assert any(name in title for title in graph.locator("title").all_text_contents())


def test_a_graph_has_no_boxes_on_top_of_each_other(opened):
    page, _ = opened(derivative_report())
    page.locator("#chain-list summary").first.click()
    page.locator(".graph rect").first.wait_for()  # drawn once the chain has opened
    boxes = [r.bounding_box() for r in page.locator(".graph rect").all()]
    assert len(boxes) > 4
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = abs(a["x"] - b["x"]) >= a["width"] or abs(a["y"] - b["y"]) >= a["height"]
            assert apart, (a, b)


def test_layers_open_and_add_up(opened):
    page, _ = opened(step_report())
    tree = page.locator("#layer-tree")
    rows = tree.locator(".layer-row")
    assert rows.first.locator(".name").inner_text() == "block"
    shown = rows.count()
    assert shown >= 5
    # What was opened on its own is closed and opened by a click.
    first = tree.locator("summary").first
    first.click()
    assert tree.locator(".layer-row:visible").count() == 1
    first.click()
    assert tree.locator(".layer-row:visible").count() == shown


def test_long_lists_are_shown_in_part(opened):
    page, _ = opened(large_report())
    rows = page.locator("#tensor-table tbody tr")
    assert rows.count() == 200
    page.click("#tensor-more")
    assert rows.count() == 1200
    chains = page.locator("#chain-list details")
    assert chains.count() == 60
    page.fill("#chain-search", "block_7/")
    expect(chains).to_have_count(1)


def test_functions_of_a_saved_model_can_be_chosen(opened):
    page, _ = opened(saved_model_report(step_report(), step_report(depth=2)))
    everything = count(page)
    page.select_option("#tensor-function", "1")
    assert 0 < count(page) < everything
    assert page.locator("#functions .scroll tbody tr").count() == 2


def test_names_are_shown_as_they_are(opened):
    page, requests = opened(nasty_report())
    page.on("dialog", lambda dialog: pytest.fail("a name was run as a script"))
    page.locator("#chain-list summary").first.click()
    assert page.locator("img").count() == 0
    assert NASTY in page.locator("#chain-list").inner_text()
    assert NASTY in page.locator("#tensor-table").inner_text().replace("\n", "")
    assert len(requests) == 1


@pytest.mark.parametrize("width", [390, 800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_screens_of_any_width_in_light_and_dark(opened, width, scheme):
    long = step_report()
    page, _ = opened(long)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, ground.removeprefix("rgb(").rstrip(")").split(","))) < 3 * 128
    assert dark == (scheme == "dark")
