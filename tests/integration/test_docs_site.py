"""The documentation's site in a browser: it fits its window, its links lead somewhere, and its search finds."""

import functools
import inspect
import os
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import ortho_lightning
from tests.integration.windows import overflowing, set_window
from tests.pages import DOCS, ROOT

pytestmark = pytest.mark.slow

BUILT = ROOT / "build" / "docs"
OWN = ("genindex.html", "search.html", "py-modindex.html")  # pages that Sphinx makes of its own
WIDTH = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
LOADED = "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"
NARROW_TABLES = """return [...document.querySelectorAll('article table')].filter(table => {
  const box = table.parentElement; return table.scrollWidth > box.clientWidth + 1
  && getComputedStyle(box).overflowX != 'auto'; }).map(table => table.textContent.slice(0, 60))"""


@pytest.fixture(scope="module")
def site():
    """The folder of the built site; it is built where it is absent."""
    if not (BUILT / "index.html").is_file():
        for package in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
            pytest.importorskip(package)
        command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-b", "html"]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [*command, str(DOCS), str(BUILT)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return BUILT


class Page(HTMLParser):
    """The links, images and anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [found[key] for key in ("href", "src") if found.get(key)]


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site): Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_every_page_of_the_sources_is_built(pages):
    sources = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert sources <= set(pages)


def test_no_link_anchor_or_image_is_broken(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or (link.startswith("#") and path.name in OWN):
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = target / "index.html" if (site / target).is_dir() else target
            anchors = pages[target].anchors if target in pages and parts.fragment else {unquote(parts.fragment)}
            if not (site / target).is_file() or unquote(parts.fragment) not in anchors:
                broken.append((str(path), link))
    assert broken == []


@pytest.mark.parametrize("callback", ["OrthogonalityCallback", "AngleMonitor", "WhiteningCallback"])
def test_the_signature_of_a_callback_shows_its_options(site, callback):
    text = (site / "api" / "callbacks.html").read_text(encoding="utf-8")
    signature = text.partition(f'id="ortho_lightning.{callback}"')[2].partition("</dt>")[0]
    for option in inspect.signature(getattr(ortho_lightning, callback)).parameters:
        assert f">{option}</span>" in signature


def test_nothing_is_loaded_from_elsewhere(site):
    loaded = []
    for path in site.rglob("*.html"):
        for tag in ("<script", "<link", "<img"):
            for part in path.read_text(encoding="utf-8").split(tag)[1:]:
                opening = part.partition(">")[0]
                if 'src="http' in opening or ('rel="stylesheet"' in opening and 'href="http' in opening):
                    loaded.append((path.name, opening))
    assert loaded == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Write no line for each request."""


@pytest.fixture(scope="module")
def address(site):
    """The site over HTTP, since a browser's page from disk must not read other files, as the search does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def until(condition, seconds=30):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("width", [1280, 400])
def test_every_page_fits_the_window_without_errors(browser, address, pages, width):
    set_window(browser, width)
    browser.get_log("browser")
    wrong = {}
    for path in pages:
        browser.get(f"{address}/{path}")
        until(lambda: browser.execute_script(LOADED))
        found = {
            "width": browser.execute_script(WIDTH) - width,
            "elements": overflowing(browser, "article"),
            "tables": browser.execute_script(NARROW_TABLES),
            "console": [entry["message"] for entry in browser.get_log("browser")],
        }
        if found["width"] > 0 or any(found[key] for key in ("elements", "tables", "console")):
            wrong[str(path)] = found
    assert wrong == {}


def test_the_search_finds_an_option_and_leads_to_its_page(browser, address):
    set_window(browser, 1280)
    browser.get(f"{address}/search.html?q=GradientShare")
    until(lambda: browser.find_elements("css selector", "#search-results li a"))
    links = browser.find_elements("css selector", "#search-results li a")
    browser.get(links[0].get_attribute("href"))
    assert "GradientShare" in browser.find_element("css selector", "article").text
