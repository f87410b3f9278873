"""The demo page in a real browser, with a network trained on MNIST."""

import re
import signal
import subprocess
import sys

import pytest

from tests.conftest import LIMIT, ROOT
from tests.support.drawings import drawn
from tests.support.lab import Bench

pytestmark = pytest.mark.slow
SEVEN = [(0.22, 0.2), (0.78, 0.18), (0.45, 0.85)]
ONE = [(0.5, 0.15), (0.5, 0.85)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory, mnist_root):
    bench = Bench(tmp_path_factory.mktemp("demo"))
    bench.env |= {"LENET_DATA": str(mnist_root), "OMP_NUM_THREADS": "1"}
    bench.run("experiment=fast", "tracking.pictures=false")
    bench.run("experiment=fast", "epochs=1", "seed=1", "tracking.pictures=false")
    return bench


@pytest.fixture(scope="module")
def url(bench):
    """The address of a server that has loaded the first run, but not the second."""
    first = bench.runs()[-2].info.run_id
    command = [sys.executable, "-m", "lenet", "demo", first[:8], "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=bench.env, stdout=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert re.match(rf"experiment=fast .*\({first[:8]}\), 9\d\.\d\d%$", lines[0])
        yield re.match(r"http://127\.0\.0\.1:\d+", lines[1])[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def opened(browser, url):
    """Opens pages; at the end, none may have asked another server or raised a script error."""
    contexts, asked, errors = [], [], []

    def open_page(width=1440, height=900, tab="", **options):
        viewport = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/{tab}")
        page.wait_for_selector("#layer-C1", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert [each for each in asked if not each.startswith(url)] == []


def draw(page, points, lift=True):
    box = page.locator("#pad").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=10)
    if lift:
        page.mouse.up()


def reads(page, expected):
    page.wait_for_function(
        "name => !document.querySelector('#answer').hidden && "
        "document.querySelector('#guess').textContent === name",
        arg=expected,
    )


def move_focus(page, name):
    """Presses Tab until it has led to this element."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return
    pytest.fail(f"Tab does not lead to {name}")


def clear(page):
    """Takes the example away, so that an answer is one about what is drawn."""
    page.click("#clear")
    page.wait_for_selector("#answer", state="hidden")


def pixels(page, selector):
    return page.eval_on_selector(selector, "canvas => canvas.toDataURL()")


def test_the_page_opens_with_an_example_and_the_sum_of_one_of_its_numbers(opened):
    page = opened()
    reads(page, "7")
    assert page.inner_text("#invitation") == "An example. Draw your own digit."
    assert page.inner_text("#unit h2 span").startswith("C1, map ")
    assert page.inner_text("#unit .sum >> nth=0").startswith("Sum of 25 products ")
    draw(page, ONE)
    reads(page, "1")  # the example is gone
    assert page.locator("#invitation").is_hidden()


def test_a_7_is_read_while_it_is_drawn(opened):
    page = opened()
    clear(page)
    layers = ["input", "C1", "S2", "C3", "S4", "C5", "F6"]
    before = [pixels(page, f"#layer-{name}") for name in layers]
    draw(page, SEVEN, lift=False)
    reads(page, "7")
    page.mouse.up()
    page.wait_for_selector("#status:text-matches('^Answered \\\\d+ ms after')")
    assert all(old != pixels(page, f"#layer-{n}") for old, n in zip(before, layers, strict=True))
    shares = page.locator("#probabilities .percent").all_inner_texts()
    assert sum(float(share.split()[0]) for share in shares) == pytest.approx(100, abs=0.6)
    page.click("#undo")
    page.wait_for_selector("#answer", state="hidden")
    draw(page, ONE)
    reads(page, "1")
    page.click("#clear")
    page.wait_for_selector("#invitation", state="visible")
    assert [pixels(page, f"#layer-{name}") for name in layers] == before


def test_a_digit_can_be_drawn_with_the_keyboard(opened):
    page = opened()
    move_focus(page, "pad")
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    for _ in range(18):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    reads(page, "1")
    page.keyboard.press("Backspace")
    page.wait_for_selector("#answer", state="hidden")


def test_a_number_shows_its_inputs_and_their_sum_is_right(opened):
    page = opened()
    clear(page)
    draw(page, SEVEN)
    reads(page, "7")
    for name, products, blocks in (("C1", 25, 1), ("C3", 150, 6), ("C5", 400, 16), ("F6", 120, 1)):
        number = r"(-?\d+\.\d+)"
        said = rf"Sum of {products} products {number} \+ bias {number} = a = {number}; "
        said += rf"max\(0, a\) = {number}"
        for x in range(5, 400, 7):  # until one is not zero
            page.hover(f"#layer-{name}", position={"x": x, "y": 30})
            page.wait_for_selector(f"#unit:has-text('{name}, ')")
            text = page.inner_text("#unit .sum >> nth=0").replace("−", "-")
            total, bias, a, value = map(float, re.fullmatch(said, text).groups())
            assert a == pytest.approx(total + bias, abs=0.0011)
            assert value == pytest.approx(max(0, a), abs=0.02)
            if value > 0.1:
                break
        else:
            pytest.fail(f"{name}: every number is 0")
        assert page.locator("#unit .field").count() == blocks
        assert page.locator("#unit .connections").count() == (name == "C3")
    page.hover("#layer-S2", position={"x": 90, "y": 30})
    page.wait_for_selector("#unit:has-text('The largest of the four values')")
    four = page.get_attribute("#unit .field canvas", "title").split("\n", 1)[1].split()
    assert len(four) == 4
    assert max(map(float, four)) == float(page.inner_text("#unit .value"))
    page.hover("#probabilities li >> nth=7")
    page.wait_for_selector("#unit:has-text('Score of 7')")
    page.evaluate("document.querySelector('#probabilities li').focus()")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("#unit:has-text('Score of 1')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#unit", state="hidden")


def test_the_arrow_keys_move_through_a_layer_and_on_to_the_next_map(opened):
    page = opened()
    move_focus(page, "layer-S4")
    where = page.locator("#unit h2 span")
    assert where.inner_text() == "S4, map 0, row 2, column 2"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert where.inner_text() == "S4, map 1, row 2, column 0"
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert where.inner_text() == "S4, map 9, row 0, column 0"


def test_an_image_of_the_test_set_can_be_put_on_the_pad(opened):
    page = opened(tab="#test")
    page.wait_for_selector("#images button")
    found = r"(\d+) of 10,000 images\. Accuracy on the whole set: 9\d\.\d\d %\."
    total = int(re.fullmatch(found, page.inner_text("#found"))[1])
    assert 30 < total < 200
    texts = page.locator("#images button").all_inner_texts()
    rows = [
        re.fullmatch(r"(\d) read as (\d)\n([\d.]+) %\nimage \d+", text).groups() for text in texts
    ]
    assert len(rows) == min(total, 60)
    assert all(truth != guess for truth, guess, _ in rows)
    sureness = [float(share) for _, _, share in rows]
    assert sureness == sorted(sureness, reverse=True)
    page.select_option("[name=right]", "true")
    page.select_option("[name=truth]", "7")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#images b')].length === 60 && "
        "[...document.querySelectorAll('#images b')].every(b => b.textContent === '7')"
    )
    page.click("#more")
    page.wait_for_function("() => document.querySelectorAll('#images button').length === 120")
    loaded = "() => document.querySelector('#images img').naturalWidth === 32"
    page.wait_for_function(loaded)
    page.locator("#images button").first.click()
    reads(page, "7")
    said = r"Test image (\d+): 7\. On one page: python -m lenet explain [0-9a-f]{8} --image \1"
    assert re.fullmatch(said, page.inner_text("#status"))
    assert page.evaluate("location.hash") == "#draw"


def test_two_networks_can_be_compared_on_one_drawing(opened, bench):
    page = opened(tab="#compare")
    assert "Load a second run" in page.inner_text("#verdict")
    page.fill("#load input", "ffff0000")
    page.click("#load button")
    page.wait_for_selector("#error:has-text('no run')")
    page.fill("#load input", bench.runs()[-1].info.run_id[:6])
    page.click("#load button")
    page.wait_for_function("() => document.querySelectorAll('#second option').length === 2")
    page.wait_for_selector("#error", state="hidden")
    draw(page, SEVEN)
    page.wait_for_selector("#verdict:has-text('Both read 7.')")
    heads = page.locator("#sides th[scope=col]").all_inner_texts()
    assert heads[1].startswith("experiment=fast")
    assert heads[2].startswith("experiment=fast epochs=1")
    assert page.locator("#sides tbody tr").count() == 10
    assert page.locator("#pair canvas").count() == 14


def test_a_file_that_is_no_picture_is_refused_and_nothing_else_changes(opened):
    page = opened()
    clear(page)
    draw(page, SEVEN)
    reads(page, "7")
    content = b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"
    page.set_input_files("#file", {"name": "a.svg", "mimeType": "image/png", "buffer": content})
    page.wait_for_selector("#error:has-text('a.svg: expected a')")
    assert page.inner_text("#guess") == "7"
    page.click("#tab-compare")  # the drawing is still what is looked at
    page.click("#tab-draw")
    page.wait_for_selector("#error", state="hidden")
    reads(page, "7")
    page.click("#clear")
    draw(page, ONE)
    reads(page, "1")
    assert page.locator("#error").is_hidden()


def test_a_dropped_picture_is_read(opened, tmp_path):
    drawn(mode="RGB", ink=(20, 30, 120), paper=(250, 240, 220)).save(tmp_path / "seven.jpg")
    page = opened()
    content = list((tmp_path / "seven.jpg").read_bytes())
    page.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "seven.jpg"));
            dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
        }""",
        content,
    )
    page.wait_for_selector("#invitation", state="hidden")  # the picture has replaced the example
    reads(page, "7")


@pytest.mark.parametrize("tab", ["#draw", "#test", "#compare"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(opened, tab, width):
    page = opened(width=width, height=740, tab=tab)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_finger_can_draw_and_choose_a_number_on_a_phone(opened):
    page = opened(width=390, height=844, has_touch=True, is_mobile=True, device_scale_factor=2)
    session = page.context.new_cdp_session(page)
    box = page.locator("#pad").bounding_box()

    def touch(kind, *points):
        where = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})

    touch("touchStart", ONE[0])
    for step in range(1, 11):
        touch("touchMove", (0.5, 0.15 + 0.07 * step))
    touch("touchEnd")
    reads(page, "1")
    assert page.evaluate("scrollY") == 0  # the pad does not scroll
    page.locator("#layer-C1").tap(position={"x": 30, "y": 20})
    page.wait_for_selector("#unit:has-text('C1, map')")


def test_the_page_follows_the_dark_theme_and_the_button_changes_it(opened):
    page = opened(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark, before = page.evaluate(ground), pixels(page, "#layer-C1")
    assert max(map(int, re.findall(r"\d+", dark))) < 60
    page.click("#theme")
    assert page.inner_text("#theme") == "Theme: light"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert pixels(page, "#layer-C1") != before
