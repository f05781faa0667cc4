"""Every example and every command of the documentation works as it stands."""

import importlib.util
import itertools
import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from ortho_lightning.configuration import configuration_folder
from tests.pages import DOCS, ROOT, blocks, pages, prose, run_page, text_of
from tests.readers import names_for

EXTRAS = ("faiss", "mlflow", "peft", "sentence_transformers", "sklearn", "timm", "transformers", "wandb")
COMMANDS = ("train", "compare", "benchmark", "whiten")  # those that Hydra configures
VALUES = {"PATH": "folder", "WEIGHT": "0.1", "NAME": "name"}
"""Placeholders of the pages."""
ELSEWHERE = ("loggers.md",)
"""Run by tests/callbacks/test_adapters.py, which looks at what it leaves: MLflow keeps one store a process."""
WITH_CODE = [
    page for page in pages() if blocks(page, "python") and page not in ELSEWHERE and not page.startswith("tutorials/")
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_examples_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path)
    try:
        run_page(page, names_for(page, tmp_path / "reader"))
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"{error.name} is not installed")


def command_lines(page):
    """The commands of a page: lines of its blocks, continued lines joined, and code in the text that calls a script."""
    found = []
    for block in blocks(page, "", "bash", "sh", "console"):
        found += block.text.replace("\\\n", " ").splitlines()
    found += [span.replace("\n", " ") for span in re.findall(r"`(python scripts/[^`]+)`", prose(page))]
    return [line for line in found if "..." not in line and "<" not in line]


def hydra_arguments(line):
    """The name of the configuration and the arguments of a command line; None for a command of another kind."""
    words = [VALUES.get(word, word) for word in shlex.split(line, comments=True)]
    for position, word in enumerate(words):
        script = re.fullmatch(r"scripts/(\w+)\.py|ortho-(\w+)|ortho_lightning\.experiments\.(\w+)", word)
        name = script and next(filter(None, script.groups()))
        if name in COMMANDS:
            return name, words[position + 1 :]
    return None


CALLS = [
    pytest.param(*called, id=f"{page}: {line.strip()[:70]}")
    for page in pages()
    for line in command_lines(page)
    if (called := hydra_arguments(line))
]


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_the_configuration_of_a_command_can_be_composed(name, arguments):
    overrides = [
        re.sub(r"=PATH\b", "=folder", argument).replace("WEIGHT", "0.1")
        for argument in arguments
        if not argument.startswith("-") and argument != "job"
    ]
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        for chosen in _single_runs(name, overrides, multirun="-m" in arguments):
            compose(name, chosen, return_hydra_config=True)


def _single_runs(name, overrides, multirun):
    """Each of the runs that a sweep makes; commas in values of whiten are parts of names of files."""
    if not multirun:
        return [[re.sub(r"=([^\[]*,.*)", r"='\1'", each) if name == "whiten" else each for each in overrides]]
    values = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.is_sweep_override():
            key = override.get_key_element()
            values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            values.append([override.input_line])
    return [list(run) for run in itertools.product(*values)]


def slugs(page):
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages())
def test_the_relative_links_of_a_page_lead_to_a_file_and_a_heading(page):
    folder = ROOT if page == "README.md" else (DOCS / page).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        place, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (folder / place).resolve() if place else (DOCS / page).resolve()
        assert target.exists(), link
        if anchor:
            assert anchor in slugs(str(target.relative_to(DOCS))), link


def test_there_are_commands_of_every_script():
    assert {param.values[0] for param in CALLS} == set(COMMANDS)


def test_the_scripts_modules_and_targets_that_pages_call_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        text = text_of(page)
        for script in re.findall(r"\bscripts/(\w+\.py)", text):
            assert (ROOT / "scripts" / script).is_file(), (page, script)
        for module in re.findall(r"-m (ortho_lightning[\w.]+\w)", text):
            assert importlib.util.find_spec(module), (page, module)
        for target in re.findall(r"`make ([\w-]+)`", text):
            assert target in targets, (page, target)


def test_the_extras_that_pages_install_exist():
    text = (ROOT / "pyproject.toml").read_text()
    known = re.findall(r"^([\w-]+) = \[", text.partition("[project.optional-dependencies]")[2], re.MULTILINE)
    for page in pages():
        for extras in re.findall(r"(?:ortho-lightning|\.)\[([a-z][\w,-]*)\]", text_of(page)):
            assert set(extras.split(",")) <= set(known), (page, extras)
