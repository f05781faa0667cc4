"""The tutorials run as they are written, and their pages show what they print and draw."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from ortho_lightning.data import cifar10

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("cnn", "lora", "whitening")

_spec = importlib.util.spec_from_file_location("tutorials", ROOT / "scripts" / "tutorials.py")
tutorials = importlib.util.module_from_spec(_spec)
sys.modules["tutorials"] = tutorials
_spec.loader.exec_module(tutorials)


def text_of(name):
    return (ROOT / "docs" / "tutorials" / f"{name}.md").read_text()


def test_these_are_all_the_tutorials():
    with_code = [path.stem for path in tutorials.FOLDER.glob("*.md") if tutorials.blocks(path.read_text())]
    assert sorted(with_code) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_compiles_and_every_fence_is_a_block(name):
    page = text_of(name)
    found = tutorials.blocks(page)
    assert len(found) == page.count("```python\n")
    assert sum(bool(block.shown) for block in found) == page.count("```text\n")
    for block in found:
        compile(block.code, name, "exec")
        assert bool(block.shown) == ("print(" in block.code)


@pytest.mark.parametrize("name", PAGES)
def test_figures_are_saved_by_the_code_and_lie_beside_the_page(name):
    page = text_of(name)
    assert tutorials.figures(page)
    for figure in tutorials.figures(page):
        assert f'savefig("{figure}"' in "".join(block.code for block in tutorials.blocks(page))
        assert imread(tutorials.FOLDER / figure).std() > 0


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_exist(name):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    installed = re.findall(r"^(ortho-\w+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    page = text_of(name)
    for script in re.findall(r"python (scripts/\w+\.py)", page):
        assert (ROOT / script).is_file()
    assert set(re.findall(r"`make ([\w-]+)", page)) <= set(targets)
    assert set(re.findall(r"(?<![\w.])ortho-(?!lightning)\w+", page)) <= set(installed)
    assert set(re.findall(r"ortho-lightning\[([\w-]+)\]", page)) <= set(extras)


@pytest.mark.parametrize("name", PAGES)
def test_links_to_other_pages_lead_somewhere(name):
    for link in re.findall(r"\]\(([\w./-]+\.md)", text_of(name)):
        assert (tutorials.FOLDER / link).resolve().is_file(), link


def images(size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return pixels, torch.arange(size) % 10


SHORTER = {
    "cnn": {"train_images=5120": "train_images=256, val_images=10", "max_epochs=4": "max_epochs=1"},
    "lora": {"epochs=4": "epochs=1", "epochs=20": "epochs=1", "unfold(0, 64, 64)": "unfold(0, 64, 64)[:64]"},
    "whitening": {},
}


@pytest.mark.parametrize("name", PAGES)
def test_a_short_version_of_a_page_runs_on_any_machine(name, monkeypatch):
    pytest.importorskip({"lora": "peft"}.get(name, "sklearn"))
    drawn = {"train": images(266), "test": images(500)}
    monkeypatch.setattr(cifar10, "load_cifar10", lambda *_, **__: drawn)  # the real images are not everywhere
    page = text_of(name)
    for long, short in SHORTER[name].items():
        assert page.count(long) == 1
        page = page.replace(long, short)
    with tutorials.temporary_folder() as folder:
        printed = list(tutorials.run(page, f"{name}.md"))
        assert all((folder / figure).is_file() for figure in tutorials.figures(page))
    assert [bool(text) for text in printed] == [bool(block.shown) for block in tutorials.blocks(page)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_new_run_of_a_page_gives_what_it_shows(name, monkeypatch, shared):
    pytest.importorskip({"lora": "peft"}.get(name, "sklearn"))
    if name == "cnn":
        monkeypatch.setenv("CIFAR10", str(shared("data/cifar10")))
    assert tutorials.execute(tutorials.FOLDER / f"{name}.md", check=True) == []


PAGE = """# A page

```python
print(6 * 7, "apples")
```

```text
{shown}
```

```python
kept = 1
```
"""


def test_a_page_gets_what_its_code_prints_once_and_for_all():
    page = PAGE.format(shown="41 apples")
    (first, second) = tutorials.run(page, "page.md")
    assert (first, second) == ("42 apples\n", "")
    new = tutorials.with_output(page, [first, second])
    assert new == PAGE.format(shown="42 apples")
    assert tutorials.with_output(new, [first, second]) == new
    bare = page.replace("\n```text\n41 apples\n```\n", "")
    assert tutorials.with_output(bare, [first, second]) == new


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("loss 2.34, 10 layers", "loss 2.41, 10 layers", True),
        ("loss 2.34", "loss 3.34", False),
        ("loss 0.02", "loss 0.09", True),
        ("loss 2.34", "gain 2.34", False),
        ("accuracy  9.5 %", "accuracy 10.1 %", True),
        ("1 2", "1 2 3", False),
    ],
)
def test_outputs_are_the_same_up_to_a_tenth_of_a_number(shown, printed, same):
    assert (tutorials.difference(shown, printed) is None) is same


@pytest.mark.parametrize(("shown", "status"), [("42 apples", 0), ("17 pears", 1)])
def test_the_check_fails_where_a_page_differs_from_its_run_and_changes_nothing(tmp_path, shown, status):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(shown=shown))
    command = [sys.executable, str(ROOT / "scripts" / "tutorials.py"), "--check", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status
    assert ("17 pears" in done.stderr) is (status == 1)
    assert page.read_text() == PAGE.format(shown=shown)


def test_a_figure_that_the_code_does_not_save_is_named_and_the_page_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(shown="1") + "![a figure](absent.png)\n")
    assert tutorials.execute(page) == ["page.md shows absent.png, which its code does not save"]
    assert "42 apples" not in page.read_text()
