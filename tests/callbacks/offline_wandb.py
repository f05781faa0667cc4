"""Reading what an offline run of Weights & Biases wrote, without its server and its private modules."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

_HEADER, _BLOCK = 7, 32768


def run_folder(folder: Path) -> Path:
    """The one offline run below a folder."""
    (found,) = folder.glob("wandb/offline-run-*")
    return found


def records(folder: Path) -> list:
    """Return the records of a finished run, once its file is complete: ``finish`` does not wait for that offline."""
    until = time.monotonic() + 60
    while not any(record.WhichOneof("record_type") == "exit" for record in _written(folder)):
        assert time.monotonic() < until, f"no end of the run in {folder}"
        time.sleep(0.1)
    return list(_written(folder))


def _written(folder: Path):
    """Yield the records that the run's file holds by now, in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    (path,) = run_folder(folder).glob("*.wandb")
    data = path.read_bytes()
    position, parts = _HEADER, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:  # a block ends with zeros where no header has room
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += _HEADER
        if position + length > len(data):
            return
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(folder: Path) -> list[dict]:
    """Return the logged rows: values, or the dictionaries that describe media, by name."""
    rows = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            rows.append({})
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                place = rows[-1]
                for key in outer:
                    place = place.setdefault(key, {})
                place[last] = json.loads(item.value_json)
    return rows


def config(folder: Path) -> dict:
    """Return the run's configuration."""
    found = {}
    for record in records(folder):
        kind = record.WhichOneof("record_type")
        update = record.config.update if kind == "config" else record.run.config.update if kind == "run" else ()
        found |= {item.key: json.loads(item.value_json) for item in update}
    return found
