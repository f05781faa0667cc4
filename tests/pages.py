"""The documentation's pages: their blocks of code, and how these run.

The Python blocks of a page run in order in one namespace, as in a reader's notebook. It begins with what
``tests/readers.py`` gives the page: the names that the page takes for the reader's own.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SHORT = {
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "accelerator": "cpu",
    "devices": 1,
    "strategy": "auto",
    "num_nodes": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Arguments of a Trainer of a page in place of the page's own: two steps on the CPU."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: after the fence; empty for none.
        text: without the fences and their indentation.
        line: of the page, at which the text begins.
    """

    language: str
    text: str
    line: int


def pages() -> list[str]:
    """Return the names of all pages below ``docs``, and README.md."""
    return ["README.md", *sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))]


def text_of(page: str) -> str:
    """Return the Markdown of a page."""
    return ((ROOT if page == "README.md" else DOCS) / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page in these languages, in their order."""
    text = text_of(page)
    found = [
        Block(match[2].strip(), textwrap.dedent(match[3]), text.count("\n", 0, match.start(3)) + 1)
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if block.language in languages]


def prose(page: str) -> str:
    """Return the Markdown of a page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def examples(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return [block.text for block in blocks(page, "python")]


def run_page(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the Python blocks of a page with these names given, and return all that they leave."""
    for block in blocks(page, "python"):
        run(block.text, names, page, block.line)
    return names


def run(code: str, names: dict[str, Any], page: str = "example", line: int = 1) -> dict[str, Any]:
    """Run code with these names given, its trainings shortened, and return all names that it leaves."""
    tree = ast.fix_missing_locations(_ShortTrainings().visit(ast.parse(code)))
    ast.increment_lineno(tree, line - 1)  # so that tracebacks show the lines of the page
    names.setdefault("__name__", "example")
    names["_short"] = _short
    exec(compile(tree, page, "exec"), names)
    return names


class _ShortTrainings(ast.NodeTransformer):
    """Makes every call of a ``Trainer`` in the code one of a short training."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        if called == "Trainer":
            node.func = ast.Call(ast.Name("_short", ast.Load()), [node.func], [])
        return node


def _short(trainer: Any) -> Any:
    return lambda **options: trainer(**{**options, **_SHORT})
