"""MLflow in a browser, on the store of a training: its page shows the histograms, the figures and the scalars."""

import sys
import time

import pytest

from tests.callbacks.test_mlflow import LAYERS, train
from tests.integration.serving import served

pytestmark = pytest.mark.slow

TEXT = "return document.body.innerText"
# The width of the image in the card of a name, 0 where it is not loaded; cards are drawn once they are scrolled to.
IMAGE = """
const name = arguments[0], section = name.slice(0, name.lastIndexOf('/'));
const leaf = text => [...document.querySelectorAll('*')].find(n => !n.children.length && n.textContent.trim() === text);
let card = leaf(name);
(card ?? leaf(section))?.scrollIntoView({block: 'center'});
while (card && !card.querySelector('input[type=number]')) card = card.parentElement;  // the number of the step
return card?.querySelector('img')?.naturalWidth ?? 0;
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        _, _, stored = train(folder)
    return folder, stored.run.info


@pytest.fixture(scope="module")
def address(run):
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{run[0]}/mlflow.db"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with served([*command, "--workers", "1"], "health", cwd=run[0], environment=quiet) as found:
        yield found


def until(browser, condition, script, *arguments, seconds=90):
    end = time.monotonic() + seconds
    while not condition(found := browser.execute_script(script, *arguments)):
        assert time.monotonic() < end, f"{arguments}: the page shows only {found}"[:3000]
        time.sleep(0.5)
    return found


def test_the_charts_of_a_run_are_its_scalars_histograms_and_figures(browser, address, run):
    _, info = run
    browser.get(f"{address}/#/experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics")
    until(browser, lambda text: "angle_std" in text, TEXT)
    # of the scalars only few are left, so that the sections of images are near; a search leaves images as they are
    browser.find_element("css selector", "input[placeholder*='Search metric']").send_keys("no such scalar")
    for layer in LAYERS:
        for kind in ("angles", "pairs"):  # at step 0, before any response is measured
            assert until(browser, lambda width: width > 0, IMAGE, f"ortho/{kind}/{layer}") > 100
    until(browser, lambda width: width > 0, IMAGE, "ortho/filters/net.0")


def test_the_artifacts_of_a_run_are_its_table_and_its_texts(browser, address, run):
    _, info = run
    browser.get("about:blank")  # a change of the fragment alone loads nothing
    browser.get(f"{address}/#/experiments/{info.experiment_id}/runs/{info.run_id}/artifacts/ortho/layers.json")
    text = until(browser, lambda text: "Welch floor" in text, TEXT)
    assert "net.2" in text
