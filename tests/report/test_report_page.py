"""The report's page in a real browser."""

import pytest

from lenet.report.findings import analyze
from lenet.report.publish import write_files
from tests.conftest import copy_store
from tests.support.sweeps import grid, make_sweep

pytestmark = pytest.mark.slow
JOBS = grid(optimizer__lr=[0.001, 0.01, 0.1], optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])


@pytest.fixture(scope="module")
def address(empty_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    uri = copy_store(empty_store, folder)
    write_files(analyze(make_sweep(uri, JOBS), uri), folder, uri)
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(browser, address):
    """Opens the page; at the end, it may have asked no server and raised no error."""
    contexts, asked, errors = [], [], []

    def open_page(width=1440, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert set(asked) == {address}


def test_a_click_on_a_head_sorts_the_table_and_another_one_turns_it(opened):
    page = opened()
    places = page.locator(".ranking .place")
    best_first = [str(place) for place in range(1, 7)]
    assert places.all_inner_texts() == best_first
    page.click(".ranking th >> text=mean >> nth=0")
    assert places.all_inner_texts() == best_first[::-1]
    page.click(".ranking th >> text=mean >> nth=0")
    assert places.all_inner_texts() == best_first
    page.click(".ranking th >> text=setting")
    names = page.locator(".ranking .setting").all_inner_texts()
    assert names == sorted(names)


def test_the_pointer_on_a_curve_shows_its_numbers_and_marks_its_row(opened):
    page = opened()
    page.hover(".plot b[data-setting='1'] >> nth=2")
    label = page.inner_text(".ranking .setting >> nth=0")
    assert page.inner_text("#tip").startswith(f"{label}, epoch 3: 9")
    assert page.locator(".ranking tr.on .place").all_inner_texts() == ["1"]
    page.hover("h1")
    assert page.locator("#tip").is_hidden()


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_screen_and_the_verdicts_are_in_sight(opened, width):
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for verdict in page.locator(".ranking td.verdict").all():
        box = verdict.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= width


def test_the_page_is_dark_where_the_system_is(opened):
    colours = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    dark, light = (opened(color_scheme=scheme).evaluate(colours) for scheme in ("dark", "light"))
    assert dark == ["rgb(24, 26, 28)", "rgb(221, 221, 221)"]
    assert light == ["rgb(255, 255, 255)", "rgb(34, 34, 34)"]
    ink = "getComputedStyle(document.querySelector('.plot polyline')).stroke"
    assert opened(color_scheme="dark").evaluate(ink) != opened(color_scheme="light").evaluate(ink)
