"""Records of runs: what is read is what is written, also by other versions."""

import json

from ortho_lightning.experiments.common.records import RunRecord
from tests.experiments.synthetic import run


def test_reading_and_writing_change_nothing():
    stored = run("lsh", 3)
    text = json.dumps({"failure": None, **{key: value for key, value in stored.items() if key != "failure"}})
    record = RunRecord.from_json(json.loads(text))
    assert record.to_json() == json.loads(text)
    assert RunRecord.from_json(record.to_json()) == record
    assert list(record.results()) == [
        "regularizer", "seed", "test_accuracy", "val_accuracy", "penalty", "step_ms", "steps", "layers", "robustness",
        "best", "history", "start", "chance",
    ]  # fmt: skip


def test_a_failed_run_has_its_reason_alone():
    failed = {"regularizer": "gram", "seed": 1, "failure": "out of memory"}
    assert RunRecord.from_json(failed).to_json() == failed


def test_what_an_earlier_version_did_not_write_is_empty_and_unknown_values_are_kept():
    stored = {"regularizer": "lsh", "seed": 0, "test_accuracy": 0.5, "layers": None, "later": {"x": 1}}
    record = RunRecord.from_json(stored)
    assert (record.test_accuracy, record.layers, record.history, record.best) == (0.5, (), (), None)
    assert record.results()["later"] == {"x": 1}
    layer = {"name": "a", "groups": 1, "k": 4, "d": 9, "mean": 90.0, "response_mean": 88.0, "counts": [1, 5]}
    (read,) = RunRecord.from_json({**stored, "layers": [layer]}).layers
    assert read.values == {"mean": 90.0, "response_mean": 88.0}
    assert read.response_counts == ()
    assert read.to_json() == {**layer, "response_counts": []}
