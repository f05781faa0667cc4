"""The page of a comparison in a browser: whole and legible on a desktop and on a phone, in light and in dark."""

import time

import pytest

from ortho_lightning.experiments.report.documents import write_report
from tests.experiments.synthetic import ARMS, comparison, full, run
from tests.integration.windows import overflowing, set_window

pytestmark = pytest.mark.slow

IMAGES = """return [...document.images].map(i => [i.complete, i.naturalWidth, i.currentSrc.slice(0, 26), i.alt,
  i.getBoundingClientRect().width])"""
SOURCES = "return [...document.images].map(i => i.currentSrc)"
WIDTHS = "return [document.documentElement.scrollWidth, innerWidth, document.body.getBoundingClientRect().width]"
# Contrast as WCAG defines it, of each text with the ground behind it; the lowest.
CONTRAST = """
const channels = text => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => { const f = [r, g, b].map(v => v / 255).map(
  v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
const ground = e => { for (let p = e; p; p = p.parentElement) { const c = channels(getComputedStyle(p).backgroundColor);
  if (c.length == 3 || c[3] > 0) return c; } return [255, 255, 255]; };
return Math.min(...[...document.body.querySelectorAll('h1, h2, p, td, th, li, pre, figcaption')].map(e => {
  const [a, b] = [luminance(channels(getComputedStyle(e).color)), luminance(ground(e))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05); }));
"""
SMALLEST_TEXT = """return Math.min(...[...document.body.querySelectorAll('p, td, th, li, pre, figcaption, text')]
  .map(e => parseFloat(getComputedStyle(e).fontSize)))"""


def long_names():
    """More than 24 layers, arms with long names, one seed and a failure that is a long word."""
    shapes = tuple((8, 8 + i) for i in range(30))
    arms = ("none", "a_regularizer_with_a_name_that_goes_on_and_on_and_on_and_on", "lsh")
    runs = [run(arm, 0, epochs=1, shapes=shapes) for arm in arms]
    runs.append({"regularizer": "lsh", "seed": 1, "failure": "x" * 400})
    return comparison(runs)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    found = {}
    failed = [{"regularizer": arm, "seed": 0, "failure": "no"} for arm in ARMS]
    for name, content in {"full": full(), "long names": long_names(), "bare": comparison(failed)}.items():
        folder = tmp_path_factory.mktemp("report")
        write_report(folder, content)
        found[name] = folder / "report.html"
    return found


@pytest.fixture
def opened(browser, pages):
    """Open a page at a width and in a colour scheme, and wait for its figures."""

    def open_page(name, width, scheme):
        set_window(browser, width, scheme)
        browser.get(pages[name].as_uri())
        until = time.monotonic() + 60
        while not all(image[0] and image[1] > 0 for image in browser.execute_script(IMAGES)):
            assert time.monotonic() < until, browser.execute_script(IMAGES)
            time.sleep(0.2)
        return browser

    return open_page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["full", "long names", "bare"])
def test_the_page_fits_and_its_figures_load(opened, name, width, scheme):
    browser = opened(name, width, scheme)
    images = browser.execute_script(IMAGES)
    assert len(images) == {"full": 1 + 4 + 7, "long names": 1 + 4 + 24, "bare": 0}[name]
    for number, (complete, natural, source, alt, shown) in enumerate(images):
        assert complete
        assert natural > 0
        assert source == "data:image/svg+xml;base64,"
        assert alt
        assert shown > 250
        assert shown <= width or number == 0  # the layers side by side, in a box that scrolls
    scrolled, inner, body = browser.execute_script(WIDTHS)
    assert inner == width
    assert scrolled <= width
    assert body <= width
    assert overflowing(browser) == []
    assert browser.execute_script(CONTRAST) >= 4.5
    assert browser.execute_script(SMALLEST_TEXT) >= 14


def test_each_scheme_has_its_own_figures(opened):
    light = opened("full", 1280, "light").execute_script(SOURCES)
    dark = opened("full", 1280, "dark").execute_script(SOURCES)
    assert len(light) == len(dark) == len({*light, *dark}) / 2


def test_the_page_asks_for_nothing_else(opened):
    browser = opened("full", 1280, "light")
    assert browser.execute_script("return document.scripts.length") == 0
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name.slice(0, 40))")
    assert [name for name in loaded if not name.startswith("data:")] == []
