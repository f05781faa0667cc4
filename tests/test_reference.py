"""The reference pages name everything that there is, with the defaults it has, and nothing else."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import ortho_lightning
from ortho_lightning import AngleMonitor, GradientShare, Gram, OrthogonalityCallback, WhiteningCallback
from ortho_lightning.callbacks.monitoring.adapters import Adapter, register
from ortho_lightning.configuration import configuration_folder
from ortho_lightning.regularizers import LSH
from tests.callbacks.helpers import make_trainer
from tests.pages import ROOT, prose, text_of
from tests.readers import Module, Notebook, images

CONF = Path(configuration_folder())
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("*.py")}


def tables(page):
    """The tables of a page by the heading above them: for each the cells of its rows, the first that of its columns."""
    found, heading, rows = {}, "", None
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        if line.startswith("|"):
            rows = [] if rows is None else rows
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows is not None:
            found.setdefault(heading, []).append([row for row in rows if set(row[0]) != {"-"}])
            rows = None
    return found


def named(cell):
    """The names in a cell, those between backticks."""
    return re.findall(r"`([^`]+)`", cell)


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "name",
    [
        "OrthogonalityCallback",
        "AngleMonitor",
        "LSH",
        "Gram",
        "GradientShare",
        "suggest_weight",
        "OrthogonalConstraint",
        "Whitening",
        "WhiteningCallback",
    ],
)
def test_each_option_is_listed_with_its_default(name):
    (columns, *rows) = tables("reference/options.md")[name][0]
    assert columns == ["option", "default", "meaning"]
    parameters = inspect.signature(getattr(ortho_lightning, name)).parameters
    assert [named(option) for option, _, _ in rows] == [[option] for option in parameters]
    for (option, shown, meaning), parameter in zip(rows, parameters.values(), strict=True):
        assert meaning, option
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert shown == "none"
        elif parameter.default is inspect.Parameter.empty:
            assert shown == "required"
        else:
            (default,) = named(shown)
            assert repr(eval(default, {"LSH": LSH})) == repr(parameter.default), option


# -------------------------------------------------------------------------------------------------------- logged names


class Pages(Notebook):
    """A logger that takes everything."""


@register
class PagesAdapter(Adapter):
    takes_pictures = True

    @staticmethod
    def serves(logger):
        return isinstance(logger, Pages)

    def histogram(self, tag, histogram, step):
        self.logger.pages.append((tag, "histogram"))

    def picture(self, tag, pixels, step):
        self.logger.pages.append((tag, "figure"))

    def table(self, tag, table, step):
        self.logger.pages.append((tag, "table"))

    def text(self, tag, markdown, step):
        self.logger.pages.append((tag, "text"))


@pytest.fixture(scope="module")
def logged():
    """What two small trainings log, each name with the kind of what it holds; a layer's name is ``<layer>``."""
    module, found = Module(), set()
    monitor = AngleMonitor(spectra_every_n_steps=1, figures=2)
    penalties = (OrthogonalityCallback(LSH(), weight=GradientShare(), monitor=monitor), OrthogonalityCallback(Gram()))
    for penalty in penalties:
        logger = Pages()
        callbacks = [penalty, WhiteningCallback("encoder", n_components=4)]
        options = {"logger": logger, "max_steps": -1, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2}
        make_trainer(callbacks, **options).fit(module, images(), images())
        scalars = [(name, "scalar") for _, metrics in logger.scalars for name in metrics]
        for name, kind in [*scalars, *logger.pages]:
            for layer in ("layer1.conv1", "layer2.conv1", "encoder", "head"):
                name = re.sub(rf"/{re.escape(layer)}$", "/<layer>", name)
            found.add((name, kind))
    return {each for each in found if each[0].startswith(("ortho/", "whitening/"))}


def test_the_page_of_logged_names_is_what_a_training_logs(logged):
    page, listed = tables("reference/logged.md"), set()
    for heading in ("Scalars of OrthogonalityCallback", "Scalars of AngleMonitor"):
        for name, by_layer, _ in page[heading][0][1:]:
            listed.add((*named(name), "scalar"))
            assert by_layer in ("yes", "no")
            if by_layer == "yes":
                listed.add((f"{named(name)[0]}/<layer>", "scalar"))
    for heading in ("Histograms, figures and texts", "WhiteningCallback"):
        listed |= {(*named(name), kind) for name, kind, _ in page[heading][0][1:]}
    assert logged - listed == set()
    assert listed - logged == set()


# ------------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("group", GROUPS)
def test_each_file_of_a_group_is_listed(group):
    (rows,) = tables("reference/configuration.md")[f"Group {group}"]
    listed = [name for row in rows[1:] for name in named(row[0])]
    assert sorted(listed) == sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert all(row[1] for row in rows)


def test_each_command_is_listed():
    (rows,) = tables("reference/configuration.md")["Commands"]
    assert {named(row[0])[0] for row in rows[1:]} == {f"scripts/{name}.py" for name in SCRIPTS}
    installed = re.findall(r"^(ortho-\w+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {name for row in rows[1:] for name in named(row[1])} == set(installed)


@pytest.mark.parametrize("command", ["train", "compare", "whiten", "benchmark"])
def test_each_option_of_a_command_is_listed_with_its_default(command):
    found = tables("reference/configuration.md")["Options of each command"]
    rows = next(rows for rows in found if rows[0][0].startswith(f"`{command}`"))
    listed = {name: row[1] for row in rows[1:] for name in named(row[0])}
    config = OmegaConf.load(CONF / f"{command}.yaml")
    own = {str(name) for name in config} - {"defaults", "hydra", *GROUPS}
    # a group's name that the file itself holds is an option there
    own |= {name for name in GROUPS if name in config and command == "benchmark"}
    assert set(listed) == own
    for row in rows[1:]:
        names, shown = named(row[0]), named(row[1])
        if len(shown) not in (1, len(names)) or any(OmegaConf.is_dict(config[name]) for name in names):
            continue
        for name, value in zip(names, shown * (len(names) if len(shown) == 1 else 1), strict=True):
            raw = OmegaConf.to_container(config, resolve=False)[name]
            assert OmegaConf.create(f"value: {value}")["value"] == raw, name


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.fixture(scope="module")
def texts():
    """Every text of the package's source, with ``...`` in the place of values."""
    found = []
    for path in Path(ortho_lightning.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


MESSAGES = [
    named(row[0])[0] for of_heading in tables("reference/errors.md").values() for rows in of_heading for row in rows[1:]
]


@pytest.mark.parametrize("message", MESSAGES)
def test_each_quoted_message_is_in_the_source(message, texts):
    assert any(message in text for text in texts)


def test_a_message_that_is_not_in_the_source_is_found_out(texts):
    assert not any("... selects no layers" in text for text in texts)
    assert len(MESSAGES) > 40


# ----------------------------------------------------------------------------------------------------------------- API

PUBLIC = {
    "callbacks": ["ortho_lightning", "ortho_lightning.callbacks"],
    "regularizers": ["ortho_lightning.regularizers"],
    "schedules": ["ortho_lightning.schedules"],
    "layers": ["ortho_lightning.layers"],
    "whitening": ["ortho_lightning.nn", "ortho_lightning.search"],
    "functional": ["ortho_lightning.functional"],
    "adapters": ["ortho_lightning.callbacks.monitoring.adapters"],
    "errors": ["ortho_lightning.errors"],
}


def public_names(module):
    """The classes, functions and types that a module exports."""
    exported = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__ and inspect.isclass(value)
    ]
    return {name for name in exported if not inspect.ismodule(getattr(module, name)) and not name.startswith("_")}


def test_each_public_name_is_on_a_page_of_the_api():
    documented = {
        page: set(re.findall(r"^\.\. (?:auto\w+|py:\w+):: (?:[\w.]+\.)?(\w+)", text_of(f"api/{page}.md"), re.MULTILINE))
        for page in PUBLIC
    }
    everywhere = set().union(*documented.values())
    for page, modules in PUBLIC.items():
        for module in modules:
            wanted = everywhere if module == "ortho_lightning" else documented[page]
            assert public_names(importlib.import_module(module)) - wanted == set(), (page, module)
