"""TensorBoard in a browser, on the logs of a run: every tab shows the data."""

import json
import re
import sys
import time

import pytest

from tests.integration.commands import TINY, run_script
from tests.integration.serving import served

pytestmark = pytest.mark.slow

# Everything on the page, also inside the shadow roots of its components.
WALK = """
const found = [];
(function walk(node) {
  for (const child of [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes]) {
    if (['STYLE', 'SCRIPT', 'TEMPLATE', 'NOSCRIPT'].includes(child.nodeName)) continue;
    found.push(child); walk(child);
  }
})(document.body);
"""
TEXT = WALK + "return found.filter(n => n.nodeType == 3).map(n => n.textContent.trim()).filter(t => t).join('\\n')"
IMAGES = WALK + "return found.filter(n => n.nodeName == 'IMG').map(n => [n.naturalWidth, n.naturalHeight])"
CURVES = WALK + (
    "return found.filter(n => n.nodeName == 'path' && n.getBoundingClientRect().width > 100)"
    ".map(n => n.getAttribute('d'))"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for arm in ("none", "lsh"):
        run_script("train", *TINY, f"regularizer={arm}", f"hydra.run.dir={arm}", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def address(run):
    with served([sys.executable, "-m", "tensorboard.main", "--logdir", str(run)], "data/runs") as found:
        yield found


@pytest.fixture
def shows(browser, address):
    """Open a tab, wait until the result of a script there satisfies a condition, and return the result."""

    def wait(tab, script, condition, seconds=90):
        browser.get("about:blank")  # a change of the fragment alone loads nothing
        browser.get(f"{address}/{tab}")
        until = time.monotonic() + seconds
        while not condition(found := browser.execute_script(script)):
            assert time.monotonic() < until, f"{tab} shows only: {found}"[:3000]
            time.sleep(0.5)
        return found

    return wait


def test_time_series(shows):
    def both(text):  # a table of run, smoothed value, value, step
        return all(re.search(rf"^{arm}\n[\d.]+\n[\d.]+\n16\n", text, re.MULTILINE) for arm in ("none", "lsh"))

    assert "angle_std" in shows("?tagFilter=ortho%2Fangle_std%24#timeseries", TEXT, both)


def test_custom_scalars(shows):
    def complete(text):
        return len(re.findall(r"Matches \([1-9]", text)) >= 7

    text = shows("#custom_scalars", TEXT, complete)
    for title in (
        "accuracy",
        "loss = task + penalty",
        "angle std by layer, 1 = random",
        "largest |cos|",
        "penalty weight",
    ):
        assert title in text
    assert "angle, mean ± std" in text
    assert "response angle, mean ± std" in text
    assert "response angle std by layer" in text


def test_distributions(shows):
    curves = shows("#distributions", CURVES, lambda curves: len(curves) >= 5)
    assert all(curve.startswith("M") for curve in curves)
    for kind in ("angles", "response_angles"):
        tab = f"#distributions&tagFilter=ortho/{kind}"  # a page has room for twelve charts
        shows(tab, TEXT, lambda text, kind=kind: text.count(f"ortho/{kind}/net.") >= 5)


def test_images(shows):
    sizes = shows("#images", IMAGES, lambda sizes: [800, 480] in sizes and [420, 420] in sizes)
    assert all(size in ([800, 480], [420, 420]) for size in sizes)


def test_hparams(shows, run):
    results = json.loads((run / "lsh" / "results.json").read_text())
    accuracy = f"{results['test_accuracy']:.5f}"[:5]
    text = shows("#hparams", TEXT, lambda text: accuracy in text)
    for heading in ("regularizer", "weight", "lambda1", "gamma", "test accuracy", "angle std (degrees)"):
        assert heading in text
    assert "lsh" in text.splitlines()
    assert "none" in text.splitlines()


def test_text(shows):
    text = shows("#text", TEXT, lambda text: "callbacks:" in text)  # the configuration stands open
    assert {"config", "ortho"} <= set(text.splitlines())
