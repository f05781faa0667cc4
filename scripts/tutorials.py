"""Run the tutorials, and write what they print and draw into their pages.

python scripts/tutorials.py                               # all pages of docs/tutorials
python scripts/tutorials.py docs/tutorials/whitening.md   # one
python scripts/tutorials.py --check                       # change nothing; fail where a page differs from a new run

The blocks of a page that begin with ```python run in their order, as one program. The block that begins with ```text
behind one of them holds what it printed; figures are the files that it saves under the names that the page shows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ortho_lightning.files import write_text

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
TOLERANCE = 0.1  # other processors and releases of torch give other last digits, and trainings carry them on
_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
_FIGURE = re.compile(r"!\[[^]]*\]\(([\w.-]+\.png)\)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and what the page says that it prints."""

    code: str
    shown: str


def blocks(page: str) -> list[Block]:
    return [Block(found["code"], found["shown"] or "") for found in _BLOCK.finditer(page)]


def figures(page: str) -> list[str]:
    return _FIGURE.findall(page)


def run(page: str, name: str) -> Iterator[str]:
    """Run the blocks of a page in the current folder, and yield what each prints."""
    namespace = {"__name__": name}
    for block in blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.code, name, "exec"), namespace)
        yield printed.getvalue()


def with_output(page: str, printed: list[str]) -> str:
    """Return a page with what its blocks printed in place of what it showed."""
    new = iter(printed)

    def block(found: re.Match[str]) -> str:
        text = next(new)
        return f"```python\n{found['code']}```\n" + (f"\n```text\n{text}```\n" if text else "")

    return _BLOCK.sub(block, page)


def difference(shown: str, printed: str, tolerance: float = TOLERANCE) -> str | None:
    """Describe how a new output differs from the page's: other words, or a number that is off by more than a share.

    Numbers below 1 in size may differ by ``tolerance`` itself.
    """
    if _words(shown) != _words(printed):
        return f"the page shows\n{shown}\nbut its code printed\n{printed}"
    for before, now in zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=True):
        if abs(float(before) - float(now)) > tolerance * max(1.0, abs(float(before))):
            return f"the page shows {before}, its code printed {now}, in\n{printed}"
    return None


def _words(text: str) -> list[str]:
    return _NUMBER.sub("0", text).split()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def execute(path: Path, check: bool = False) -> list[str]:
    """Run a page; write its outputs and figures beside it, or return how they differ from it."""
    page = path.read_text(encoding="utf-8")
    with temporary_folder() as folder:
        printed = list(run(page, path.name))
        missing = [f"{path.name} shows {name}, which its code does not save" for name in figures(page)
                   if not (folder / name).is_file()]  # fmt: skip
        if not check and not missing:
            for name in figures(page):
                shutil.copyfile(folder / name, path.parent / name)
            write_text(path, with_output(page, printed))
    if not check:
        return missing
    found = [difference(block.shown, text) for block, text in zip(blocks(page), printed, strict=True)]
    return missing + [f"{path.name}: {each}" for each in found if each is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="default: all of docs/tutorials")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page differs from a new run")
    options = parser.parse_args()
    wrong: list[str] = []
    for path in options.pages or sorted(FOLDER.glob("*.md")):
        if not blocks(path.read_text(encoding="utf-8")):
            continue
        began = time.process_time()
        wrong += execute(path.resolve(), options.check)
        print(f"{path.name}: {time.process_time() - began:.0f} seconds of processor time")
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
