"""The dashboard read back from the event files: layout, pictures, texts; the progress bar; loggers of other kinds."""

import copy
import csv
import importlib
import math
import re
import threading

import matplotlib.pyplot as plt
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback, plots
from ortho_lightning.callbacks.monitoring import adapters
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import PACKAGES, images, make_trainer, vision_module

LAYERS = ("net.0", "net.2", "net.6")


def fit(callback, logger, package="pytorch_lightning", module=None, **options):
    module = vision_module(package) if module is None else module
    trainer = make_trainer(callback, package, **{"logger": logger, "max_steps": -1, "max_epochs": 2, **options})
    trainer.fit(module, images(12))
    return trainer


def tensorboard(folder):
    return TensorBoardLogger(folder, name="", version="")


def events(folder):
    guidance = {"images": 0, "tensors": 0, "scalars": 0}
    return EventAccumulator(str(folder), size_guidance=guidance).Reload()


def text(found, tag):
    (event,) = found.Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def charts(found):
    (event,) = found.Tensors("custom_scalars__config__")  # written once
    layout = layout_pb2.Layout()
    layout.ParseFromString(event.tensor_proto.string_val[0])
    return {category.title: {chart.title: chart for chart in category.chart} for category in layout.category}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_chart_of_the_layout_finds_its_scalars_in_the_order_of_the_layers(tmp_path, package):
    logger = importlib.import_module(f"{package}.loggers").TensorBoardLogger(tmp_path, name="", version="")
    module = vision_module(package)
    original = type(module).training_step
    type(module).training_step = lambda self, *args: (
        self.log("val_loss", 1.0) or self.log("acc", 1.0) or original(self, *args)
    )
    fit(OrthogonalityCallback(LSH(), weight=0.01, log_every_n_steps=1), logger, package, module, log_every_n_steps=1)
    found = events(tmp_path)
    tags = set(found.Tags()["scalars"])
    layout = charts(found)
    assert list(layout) == ["task", "ortho"]
    matched = {}
    for section in layout.values():
        for title, chart in section.items():
            lines = [[tag for tag in tags if re.match(line, tag)] for line in chart.multiline.tag]
            assert all(lines), title
            matched[title] = [tag for line in lines for tag in line]
    assert matched["accuracy"] == ["acc"]
    assert matched["loss of the task"] == ["val_loss"]
    assert matched["angle std by layer, 1 = random"] == [f"ortho/spread_ratio/{layer}" for layer in LAYERS]
    assert matched["largest |cos|"] == [f"ortho/max_abs_cos/{layer}" for layer in LAYERS]
    assert matched["penalty weight"] == ["ortho/weight"]
    (band,) = layout["ortho"]["angle, mean ± std"].margin.series
    assert {band.value, band.lower, band.upper} <= tags
    last = {tag: found.Scalars(tag)[-1].value for tag in tags}
    assert last[band.value] - last[band.lower] == pytest.approx(last["ortho/angle_std"], abs=1e-3)
    assert last[band.upper] - last[band.value] == pytest.approx(last["ortho/angle_std"], abs=1e-3)


def test_two_callbacks_share_one_layout(tmp_path):
    first = OrthogonalityCallback(None, layers="net.0", name="first")
    second = OrthogonalityCallback(Gram(), layers="net.6", name="second", weight=1e-4)
    fit([first, second], tensorboard(tmp_path))
    layout = charts(events(tmp_path))
    assert list(layout) == ["task", "first", "second"]
    assert list(layout["second"]["largest |cos|"].multiline.tag) == [r"second/max_abs_cos/net\.6$"]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("every", [1, 2])
def test_task_and_penalty_add_up_to_the_loss(tmp_path, every, accumulate):
    module = vision_module()
    losses, original = [], module.loss
    module.loss = lambda batch: losses.append(original(batch)) or losses[-1]
    callback = OrthogonalityCallback(Gram(), weight=0.01, log_every_n_steps=1, every_n_steps=every)
    fit(callback, tensorboard(tmp_path), module=module, accumulate_grad_batches=accumulate)
    found = events(tmp_path)
    task, penalty, total = (
        [event.value for event in found.Scalars(f"ortho/{key}")] for key in ("task_loss", "penalty_loss", "total_loss")
    )
    raw = {event.step: event.value for event in found.Scalars("ortho/penalty")}
    assert list(raw) == list(range(0, len(task), every))  # a step without a penalty logs none
    assert task == pytest.approx([loss.item() for loss in losses[accumulate - 1 :: accumulate]], rel=1e-4)
    expected = [0.01 * every * raw.get(step, 0.0) for step in range(len(task))]
    assert penalty == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx([sum(parts) for parts in zip(task, penalty, strict=True)], rel=1e-5)


@pytest.mark.parametrize(
    ("times", "epochs", "steps"),
    [(3, 4, [0, 6, 12]), (3, 1, [0, 3]), (1, 4, [12]), (2, 4, [0, 12]), (5, 4, [0, 3, 6, 9, 12]), (None, 4, [])],
)
def test_pictures_of_the_beginning_the_middle_and_the_end(tmp_path, times, epochs, steps):
    fit(OrthogonalityCallback(None, monitor=AngleMonitor(figures=times)), tensorboard(tmp_path), max_epochs=epochs)
    found = events(tmp_path)
    names = {"ortho/filters/net.0", *(f"ortho/pairs/{layer}" for layer in LAYERS)} if steps else set()
    assert set(found.Tags()["images"]) == names
    for name in names:
        series = found.Images(name)
        assert [event.step for event in series] == steps
        size = (420, 420) if "filters" in name else (800, 480)
        assert {(event.width, event.height) for event in series} == {size}
        assert all(event.encoded_image_string.startswith(b"\x89PNG") for event in series)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ortho-figures")]
    assert not plt.get_fignums()


def pictures_drawn(monkeypatch, folder, monitor):
    """The arguments of each layer's figures in the order in which they were drawn, by layer."""
    drawn, draw = {}, plots.layer_picture

    def watched(layer, title, responses):
        drawn.setdefault(title.partition(",")[0], []).append((layer, responses))
        return draw(layer, title, responses)

    monkeypatch.setattr(plots, "layer_picture", watched)
    fit(monitor, tensorboard(folder))
    return drawn


def test_figures_show_both_kinds_once_responses_are_measured(tmp_path, monkeypatch):
    monitor = AngleMonitor(every_n_steps=1)
    drawn = pictures_drawn(monkeypatch, tmp_path, monitor)
    assert set(drawn) == set(LAYERS)
    for name, moments in drawn.items():
        (_, unmeasured), *others = moments  # before training no batch has run
        assert unmeasured.pairs == 0
        assert all(responses.pairs > 0 for _, responses in others)
        assert moments[-1][1] is monitor.responses[name]
        (before, _), (after, _) = moments[0], moments[-1]
        assert not torch.equal(before.cosines, after.cosines)  # copied when they were due


def test_figures_show_filter_angles_alone(tmp_path, monkeypatch):
    drawn = pictures_drawn(monkeypatch, tmp_path, AngleMonitor(kinds=["filter"]))
    assert {name: len(moments) for name, moments in drawn.items()} == dict.fromkeys(LAYERS, 3)
    assert all(responses is None for moments in drawn.values() for _, responses in moments)


def test_figures_show_response_angles_alone_from_the_first_measurement_on(tmp_path, monkeypatch):
    drawn = pictures_drawn(monkeypatch, tmp_path, AngleMonitor(kinds=["response"]))
    assert {name: len(moments) for name, moments in drawn.items()} == dict.fromkeys(LAYERS, 2)
    assert all(layer is None and responses.pairs > 0 for moments in drawn.values() for layer, responses in moments)
    assert {(event.width, event.height) for event in events(tmp_path).Images("ortho/pairs/net.2")} == {(480, 340)}


def test_a_training_that_stops_early_has_its_last_pictures(tmp_path):
    fit(OrthogonalityCallback(None), tensorboard(tmp_path), max_epochs=100, max_steps=4)
    assert [event.step for event in events(tmp_path).Images("ortho/pairs/net.0")] == [0, 3, 4]


def test_the_first_layer_is_shown_when_it_is_not_chosen(tmp_path):
    fit(OrthogonalityCallback(None, exclude="net.0"), tensorboard(tmp_path))
    names = events(tmp_path).Tags()["images"]
    assert "ortho/filters/net.0" in names
    assert "ortho/pairs/net.0" not in names


def test_a_picture_that_fails_is_told_and_does_not_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "layer_picture", lambda *args: 1 / 0)
    with pytest.warns(UserWarning, match="could not be drawn: ZeroDivisionError"):
        trainer = fit(OrthogonalityCallback(None), tensorboard(tmp_path))
    assert trainer.current_epoch == 2
    assert events(tmp_path).Tags()["images"] == ["ortho/filters/net.0"]


def test_pictures_leave_the_training_and_the_random_state_alone(tmp_path):
    weights, states = [], []
    for times in (None, 3):
        module = vision_module()
        torch.manual_seed(4)
        fit(
            OrthogonalityCallback(None, monitor=AngleMonitor(figures=times)),
            tensorboard(tmp_path / str(times)),
            module=module,
        )
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        states.append(torch.get_rng_state())
    assert torch.equal(*weights)
    assert torch.equal(*states)


def test_the_table_of_the_layers_is_a_text(tmp_path):
    fit(OrthogonalityCallback(None), tensorboard(tmp_path))
    rows = [line.split("|")[1:-1] for line in text(events(tmp_path), "ortho/layers").splitlines()]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[2:]}
    assert tuple(table) == LAYERS
    trigamma = sum((27 / 2 + n) ** -2 for n in range(100_000))
    assert table["net.2"] == ["2", "4", "27", "12", "0.0000", f"{math.degrees(math.sqrt(trigamma / 2)):.2f}°"]


def test_more_filters_than_dimensions_have_a_floor_in_the_table(tmp_path):
    module = vision_module()
    module.net[6] = nn.Linear(8 * 36, 5)
    module.net.append(nn.Linear(5, 9))
    fit(OrthogonalityCallback(None, layers="net.7"), tensorboard(tmp_path), module=module)
    assert f"{(4 / (5 * 8)) ** 0.5:.4f}" in text(events(tmp_path), "ortho/layers")


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("regularizer", "kinds", "angle"),
    [
        (LSH(), ("filter", "response"), "response_angle_std"),
        (LSH(), ("filter",), "angle_std"),
        (Gram(), ("filter", "response"), "angle_std"),
        (Gram(), ("response",), "response_angle_std"),
    ],
)
def test_the_progress_bar_shows_the_loss_the_penalty_and_the_angles_that_it_moves(
    package, regularizer, kinds, angle, capsys
):
    monitor = AngleMonitor(kinds=kinds, every_n_steps=1)
    callback = OrthogonalityCallback(regularizer, weight=0.01, log_every_n_steps=1, monitor=monitor)
    # named, as Lightning takes rich's where rich is installed
    bar = importlib.import_module(f"{package}.callbacks").TQDMProgressBar()
    fit([callback, bar], False, package, enable_progress_bar=True)
    shown = capsys.readouterr()
    for key in ("total_loss", "penalty", angle):
        assert re.search(rf"ortho/{key}=\d", shown.out + shown.err)
    assert len(set(re.findall(r"ortho/\w*angle_std", shown.out + shown.err))) == 1


def test_without_a_progress_bar_nothing_is_shown(tmp_path, capfd):
    fit(OrthogonalityCallback(LSH(), weight=0.01, log_every_n_steps=1), tensorboard(tmp_path))
    shown = capfd.readouterr()
    assert "ortho/" not in shown.out + shown.err


class ScalarsOnly(Logger):
    """A logger of a kind that has no adapter."""

    name, version = "mine", "0"

    def __init__(self):
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params, *args, **kwargs):
        self.params = params


def test_a_logger_without_an_adapter_gets_the_scalars_and_no_picture_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "layer_picture", lambda *args: drawn.append(args))
    mine = ScalarsOnly()
    fit(OrthogonalityCallback(LSH(), weight=0.01, log_every_n_steps=1), [mine, CSVLogger(tmp_path, "", "")])
    assert not drawn
    assert {"ortho/penalty", "ortho/angle_lower", "ortho/total_loss"} <= set(mine.metrics[0][1])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["ortho/angle_std/net.2"]) == pytest.approx(mine.metrics[-1][1]["ortho/angle_std/net.2"])


def test_a_trial_run_draws_nothing(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "layer_picture", lambda *args: drawn.append(args))
    trainer = fit(OrthogonalityCallback(None), True, fast_dev_run=True)
    assert len(trainer.loggers) == 1
    assert not drawn


def test_an_adapter_of_ones_own_gets_what_it_takes():
    taken = []

    class ForMine(ScalarsOnly):
        """Not the logger of other tests, since an adapter stays registered."""

    @adapters.register
    class Mine(adapters.Adapter):
        takes_pictures = True

        @staticmethod
        def serves(logger):
            return isinstance(logger, ForMine)

        def picture(self, tag, pixels, step):
            taken.append((tag, pixels.shape, pixels.dtype.name, step))

        def text(self, tag, markdown, step):
            taken.append((tag, markdown.splitlines()[0].split()[1]))

        def histogram(self, tag, statistics, step):
            taken.append((tag, len(statistics.counts)))

    fit(OrthogonalityCallback(None), ForMine())
    assert ("ortho/pairs/net.2", (480, 800, 3), "uint8", 0) in taken
    assert ("ortho/layers", "layer") in taken
    assert ("ortho/angles/net.0", 90) in taken


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_a_wrong_number_of_pictures_is_refused(value):
    with pytest.raises(ValueError, match=f"figures={value}: must be an integer of 1 or more"):
        AngleMonitor(figures=value)


@pytest.mark.parametrize("regularizer", [None, LSH()])
@pytest.mark.parametrize("every", [None, 1])
def test_a_loss_of_shape_one_is_a_loss(tmp_path, regularizer, every):
    module = vision_module()
    plain = module.loss
    module.loss = lambda batch: plain(batch).reshape(1)
    callback = OrthogonalityCallback(regularizer, weight=0.1, log_every_n_steps=every)
    trainer = fit(callback, tensorboard(tmp_path), module=module)
    if every is not None:
        assert trainer.callback_metrics["ortho/total_loss"].dim() == 0


def test_the_callback_can_be_copied_while_it_draws(tmp_path):
    class Copies(importlib.import_module("pytorch_lightning").Callback):
        copied = None

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.copied = copy.deepcopy(callback)

    callback, copies = OrthogonalityCallback(LSH(), weight=0.1), Copies()
    make_trainer([callback, copies], logger=tensorboard(tmp_path), max_steps=2).fit(vision_module(), images(12))
    assert copies.copied.weight == 0.1


@pytest.mark.parametrize("first", [True, False])
def test_no_drawing_thread_outlives_an_exception_of_another_callback(tmp_path, first):
    class Boom(importlib.import_module("pytorch_lightning").Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            raise RuntimeError("in the batch")

        def on_exception(self, trainer, pl_module, exception):
            raise RuntimeError("on purpose")

    callback = OrthogonalityCallback(LSH(), weight=0.1)
    callbacks = [Boom(), callback] if first else [callback, Boom()]
    with pytest.raises(RuntimeError):
        make_trainer(callbacks, logger=tensorboard(tmp_path), max_steps=2).fit(vision_module(), images(12))
    for thread in threading.enumerate():
        if thread.name.startswith("ortho-figures"):
            thread.join(timeout=60)
            assert not thread.is_alive()
