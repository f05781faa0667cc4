"""The contents of a comparison's report; nothing in it depends on chance or breaks the markup."""

import base64
import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ortho_lightning.experiments.comparison.factorial import Factor, Factorial
from ortho_lightning.experiments.comparison.step_costs import StepCost
from ortho_lightning.experiments.report.angles import MOST_LAYERS, shown_layers
from ortho_lightning.experiments.report.documents import flat_runs, write_report
from ortho_lightning.experiments.report.factors import panels
from ortho_lightning.experiments.report.markdown import as_markdown
from ortho_lightning.experiments.report.panels import coarser, draw_filter_angles
from ortho_lightning.experiments.report.settings import title
from ortho_lightning.experiments.report.style import LIGHT, MOST_ARMS, drawn_styles, short, styles
from ortho_lightning.experiments.report.tables import all_tables, main
from tests.experiments.synthetic import ARMS, comparison, full, run, scores

VOID = {"meta", "img", "source", "br", "link", "input", "hr"}
SVG = "data:image/svg+xml;base64,"


class Page(HTMLParser):
    """The page's elements; anything left open or closed twice is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.texts = [], [], {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "table":
            self.rows = self.tables.setdefault(attributes["class"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def content():
    return full()


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    made = tmp_path_factory.mktemp("report") / "new"
    write_report(made, content)
    return made


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def written(content, folder):
    write_report(folder, content)
    return Page((folder / "report.html").read_text(encoding="utf-8")), (folder / "report.md").read_text("utf-8")


def markdown_tables(text):
    """The cells of each table, by the heading above it."""
    found = {}
    heading = ""
    for line in text.splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        if line.startswith("|") and not line.startswith("|-"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return found


def test_every_figure_is_one_in_light_and_in_dark(page):
    pairs = list(zip(page.of("img"), page.of("source"), strict=True))
    assert len(pairs) == 1 + 4 + 7  # angles side by side, differences, three curves, seven layers
    for image, source in pairs:
        assert image["alt"]
        assert source["media"] == "(prefers-color-scheme: dark)"
        drawings = []
        for uri in (image["src"], source["srcset"]):
            assert uri.startswith(SVG)
            drawings.append(base64.b64decode(uri.removeprefix(SVG), validate=True))
            assert ElementTree.fromstring(drawings[-1]).tag == "{http://www.w3.org/2000/svg}svg"
        assert drawings[0] != drawings[1]


def test_the_page_needs_nothing_else(folder, page):
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed"} == set()
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(attributes.get("src", SVG).startswith(SVG) for _, attributes in page.elements)


def test_the_tables_hold_the_numbers_of_the_summary(content, folder, page):
    in_markdown = markdown_tables((folder / "report.md").read_text("utf-8"))["The arms"]
    assert page.tables["arms"] == in_markdown
    assert as_markdown(main(content)).splitlines()[0] in (folder / "report.md").read_text("utf-8")
    heading, *rows = in_markdown
    ranked = content.summary.ranked
    assert [row[0] for row in rows] == [arm.arm for arm in ranked]
    column = {name: place for place, name in enumerate(heading)}
    for row, arm in zip(rows, ranked, strict=True):
        accuracy = arm.measures["test_accuracy"]
        shown = re.fullmatch(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", row[column["test accuracy (%)"]])
        assert [float(x) for x in shown.groups()] == pytest.approx(
            [accuracy.mean, accuracy.low, accuracy.high], abs=0.00501
        )
        assert float(row[column["filter angle std / random"]]) == pytest.approx(
            arm.measures["spread_ratio"].mean, abs=0.00501
        )
        if arm.difference is None:
            assert row[column["difference to none (points)"]] == "-"
            continue
        shown = re.fullmatch(r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]", row[column["difference to none (points)"]])
        assert [float(x) for x in shown.groups()] == pytest.approx(
            [getattr(arm.difference, key) for key in ("mean", "low_holm", "high_holm")], abs=0.00501
        )
        assert float(row[column["p (Holm)"]]) == pytest.approx(arm.difference.p_holm, abs=0.000501)
        assert float(row[column["step time / baseline's"]]) == content.costs[arm.arm].ratio
    assert {row[0]: row[1] for row in rows} == {"none": "8", "gram": "7 of 8", "lsh": "8"}


def test_other_differences_are_one_row_for_each_measure_and_arm(tmp_path):
    content = comparison([run(arm, seed) for arm in ("none", "gram", "lsh") for seed in range(4)])
    page, _ = written(content, tmp_path)
    heading, *rows = page.tables["others"]
    arms = {arm.arm: arm for arm in content.summary.arms}
    measures = dict.fromkeys(row[0] for row in rows)
    assert len(rows) == 2 * len(measures) == 8
    for row in rows:
        words, arm = row[:2]
        name = list(arms[arm].others)[list(measures).index(words)]
        shown = float(row[heading.index("difference [95%]")].partition(" ")[0])
        assert shown == pytest.approx(arms[arm].others[name].mean, abs=0.00501)


def test_arms_are_in_the_order_of_their_difference_with_angles_and_cost_beside_it(tmp_path):
    gains = {"a": 0.01, "none": 0.0, "b": -0.02, "c": 0.03}
    runs = [one for arm, gain in gains.items() for one in scores(arm, [0.5 + gain, 0.6 + gain, 0.72 + gain])]
    runs += [{"regularizer": "d", "seed": 0, "failure": "no"}]
    content = comparison(runs, {arm: StepCost(step_ms=1.0, ratio=1.5) for arm in gains})
    page, markdown = written(content, tmp_path)
    assert [row[0] for row in page.tables["arms"][1:]] == ["none", "c", "a", "b", "d"]
    assert [row[0] for row in page.tables["differences"][1:]] == ["c", "a", "b"]
    assert [row[0] for row in page.tables["costs"][1:]] == ["none", "c", "a", "b"]
    heading = page.tables["arms"][0]
    at = heading.index("difference to none (points)")
    assert heading[at + 1 : at + 5] == ["p (Holm)", "step time / baseline's", "filter angle std (deg)",
                                        "response angle std (deg)"]  # fmt: skip
    assert page.tables["arms"][2][at + 2] == "1.50"
    assert "The arms are sorted by their difference to none." in markdown
    no_costs, _ = written(replace(content, costs={}), tmp_path)
    assert "step time / baseline's" not in no_costs.tables["arms"][0]


def test_a_title_names_few_arms_and_counts_many():
    few, many = (comparison([run(f"arm{i}", 0, epochs=0) for i in range(n)]) for n in (3, 7))
    assert title(few) == "cifar10: arm0, arm1 and arm2"
    assert title(many) == "cifar10: 7 arms"


def test_sentence_notes_command_and_commit_are_there(content, folder, page):
    text = " ".join(" ".join(page.texts).split())
    markdown = (folder / "report.md").read_text("utf-8")
    for said in (content.sentence, *content.notes, content.settings.command,
                 *content.settings.commits):  # fmt: skip
        assert " ".join(said.split()) in text
        assert said in markdown


def test_costs_and_robustness_have_tables_of_their_own(page, content):
    assert page.tables["costs"][1][:2] == ["none", "10.00"]
    assert page.tables["robustness"][0] == ["arm", "noise 0.02", "missing 0.5", "rotated"]
    without = replace(content, costs={}, summary=comparison(scores("none", [0.5, 0.6])).summary)
    own = {"costs", "robustness", "robustness-differences"}
    assert own <= set(page.tables)
    assert not own & {table.name for table in all_tables(without)}


def test_accuracies_on_perturbed_data_are_compared_with_the_baseline(page, content):
    heading, *rows = page.tables["robustness-differences"]
    assert heading == page.tables["robustness"][0]
    arms = [arm for arm in content.summary.ranked if arm.arm != "none"]
    assert [row[0] for row in rows] == [arm.arm for arm in arms]
    for arm, row in zip(arms, rows, strict=True):
        for kind, cell in zip(heading[1:], row[1:], strict=True):
            one = arm.others[f"robustness/{kind}"]
            shown = [float(text.strip("[],")) for text in cell.split()]
            assert shown == pytest.approx([one.mean, one.low_holm, one.high_holm], abs=0.00501)
    alone = comparison([run("lsh", seed) for seed in range(3)])
    assert {table.name for table in all_tables(alone)} & {"robustness", "robustness-differences"} == {"robustness"}


def test_welchs_floor_stands_only_where_filters_outnumber_dimensions(page):
    column = page.tables["layers"][0].index("Welch floor")
    floors = {row[0]: row[column] for row in page.tables["layers"][1:]}
    # 32 filters in 9 dimensions: sqrt(23 / (9 * 31)) = 0.287
    assert floors.pop("net.stage0.conv") == "0.287"
    assert set(floors.values()) == {"-"}
    assert len(floors) == 6


def test_content_cannot_become_markup(tmp_path):
    nasty = "<script>alert(1)</script> | \"'`& \n| $x$"
    runs = [run("none", 0), {"regularizer": nasty, "seed": 0, "failure": nasty}]
    runs[0]["layers"][0]["name"] = nasty
    content = comparison(runs, {nasty: StepCost(step_ms=1.0)})
    own = {"experiment": nasty, "command": nasty, "commits": [nasty], "machine": {nasty: nasty}}
    content = replace(content, settings=replace(content.settings, **own))
    page, markdown = written(content, tmp_path)
    assert page.of("script") == []
    assert page.tables["failures"][1] == [nasty, "0", nasty]
    fenced = re.compile(r"^(`{3,})\n.*?\n\1$", re.MULTILINE | re.DOTALL)
    assert "<script>" not in fenced.sub("", markdown)
    for rows in markdown_tables(fenced.sub("", markdown)).values():
        assert len({len(row) for row in rows}) == 1


def test_the_same_content_gives_the_same_bytes(content, folder, tmp_path):
    write_report(tmp_path, content)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.html", "report.md", "results.csv", "accuracy.png", "angles.png"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_figure_of_accuracies_has_differences_and_curves_beside_each_other(content, tmp_path):
    def pixels(of):
        write_report(tmp_path, of)
        return plt.imread(tmp_path / "accuracy.png")

    whole = pixels(content)
    assert whole[0, 0].tolist() == [1.0, 1.0, 1.0, 1.0]
    alone = pixels(comparison([run("none", seed) for seed in range(3)]))  # there is no difference, only the curve
    assert whole.shape[1] == 2 * alone.shape[1]
    assert whole.shape[0] == alone.shape[0]


def test_of_many_arms_the_best_have_lines_and_all_have_their_differences_each_in_a_row(tmp_path):
    names = ["none", *(f"arm {i}" for i in range(20))]
    many = comparison(
        [
            {**run(name, seed, epochs=2), "test_accuracy": 0.8 - place / 100 + noise / 1000}
            for place, name in enumerate(names)
            for seed, noise in enumerate([place % 3, 0, 1])
        ]
    )
    best = names[:MOST_ARMS]
    assert list(drawn_styles(many.summary)) == best
    write_report(tmp_path, many)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    differences, *curves = [img for img in page.of("img") if img["alt"].startswith(("Test acc", "Validation acc"))]
    assert [img["alt"].split(", for ")[1].split(", ") for img in curves] == [best]
    assert int(differences["height"]) > 2 * int(curves[0]["height"])
    assert any(text.startswith(f"Figures have lines for {MOST_ARMS} of 21 arms") for text in page.texts)
    assert len(page.tables["arms"]) == 1 + 21
    layer = many.summary.layers[0]
    axis = plt.figure().add_subplot()
    draw_filter_angles(axis, LIGHT, layer, drawn_styles(many.summary))
    assert [step.get_label() for step in axis.patches] == best
    plt.close("all")


def test_without_results_there_is_no_figure_of_accuracies_and_none_of_an_earlier_report(content, tmp_path):
    write_report(tmp_path, content)
    write_report(tmp_path, comparison([{"regularizer": "none", "seed": 0, "failure": "no"}]))
    assert not (tmp_path / "accuracy.png").exists()


def with_factors(content):
    """The content, with one factor that brings 2 points, and an arm that brings 1.5 without it and takes 1 with it."""
    accuracies = {
        "none": {(False,): {0: 50.0, 1: 51.0, 2: 52.5}, (True,): {0: 52.0, 1: 53.1, 2: 54.4}},
        "lsh": {(False,): {0: 51.4, 1: 52.6, 2: 54.0}, (True,): {0: 51.0, 1: 52.0, 2: 53.5}},
    }
    decay = Factor.of("model.optimizer.weight_decay", [0.0, 0.005])
    factorial = Factorial([decay], accuracies, "none")
    return replace(content, factorial=factorial, replacements=factorial.replacements(0.95))


def test_a_factorial_has_a_table_and_a_figure_of_its_own(content, tmp_path):
    page, markdown = written(with_factors(content), tmp_path)
    (row,) = page.tables["replacements"][1:]
    assert row[:3] == ["weight_decay", "lsh", "3"]
    assert [cell.split(" [")[0] for cell in row[3:]] == ["+2.00", "+1.50", "75%", "-0.50", "-1.00"]
    assert any(text.startswith("weight_decay brings none +2.00 points (corrected interval") for text in page.texts)
    assert page.tables["combinations"][0] == ["factors", "none", "lsh"]
    assert [row[0] for row in page.tables["combinations"][1:]] == ["weight_decay=0.0", "weight_decay=0.005"]
    assert page.tables["combinations"][1][1].startswith("51.17 [")
    assert "In place of weight_decay" in page.texts
    (table,) = [rows for rows in markdown_tables(markdown).values() if "share of the factor" in rows[0]]
    assert table[-1] == row
    assert (tmp_path / "factors.png").is_file()
    write_report(tmp_path, content)
    assert not (tmp_path / "factors.png").exists()
    assert json.loads(json.dumps(with_factors(content).to_json()))["replacements"][0]["factor"] == "weight_decay"


def test_the_figures_legend_explains_what_is_drawn(content, page, tmp_path):
    def explained(page):
        text = " ".join(page.texts)
        return "Differences: one mark per seed" in text, "Curves: means over seeds" in text

    assert explained(page) == (True, True)
    assert explained(written(with_factors(content), tmp_path)[0]) == (False, True)
    assert explained(written(comparison([run("lsh", seed) for seed in range(3)]), tmp_path)[0]) == (False, True)
    assert explained(written(comparison(scores("none", [0.5, 0.6]) + scores("lsh", [0.6, 0.8])), tmp_path)[0]) == (
        True,
        False,
    )


def test_the_panel_of_a_factor_shows_its_effect_and_the_gains_without_it(content):
    found = with_factors(content).replacements
    (panel,) = panels(found)
    axis = plt.figure().add_subplot()
    panel.draw(axis, LIGHT)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["weight_decay", "lsh"]
    drawn = [line.get_xdata() for line in axis.lines]
    for one in (found[0].brings, found[0].gains):
        assert any(list(ends) == [one.low_holm, one.high_holm] for ends in drawn)
        assert any(list(mean) == [one.mean] for mean in drawn)
    plt.close("all")


def test_the_csv_has_a_row_a_run(content, folder):
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert rows[4]["failure"].startswith("exit status 1")
    assert rows[4]["test_accuracy"] == ""
    assert float(rows[5]["test_accuracy"]) == 100 * content.runs[5].test_accuracy
    assert float(rows[5]["robustness/rotated"]) == 100 * content.runs[5].robustness["rotated"]
    assert {type(value) for row in flat_runs(content) for value in row.values()} <= {str, int, float, type(None)}


CASES = {
    "one seed": lambda: [run(arm, 0) for arm in ARMS],
    "one arm": lambda: [run("none", seed) for seed in range(3)],
    "no baseline": lambda: [run(arm, seed) for arm in ("gram", "lsh") for seed in range(3)],
    "all failed": lambda: [{"regularizer": arm, "seed": 0, "failure": "no"} for arm in ARMS],
    "no layers, no history": lambda: scores("none", [0.5, 0.6, 0.7]) + scores("lsh", [0.6, 0.65, 0.7]),
    "nothing tested": lambda: scores("none", [None] * 3) + scores("lsh", [None] * 3),
    "diverged": lambda: [run("none", 0), run("lsh", 0) | {"test_accuracy": float("nan")}],
    "no run": lambda: [],
}


@pytest.mark.parametrize("case", CASES)
def test_little_content_makes_a_report_too(case, tmp_path):
    content = comparison(CASES[case]())
    page, markdown = written(content, tmp_path)
    assert content.sentence in markdown
    cells = {cell for name, table in page.tables.items() if name != "failures" for row in table for cell in row}
    assert not {cell for cell in cells if re.search(r"\b(nan|inf|None)\b", cell)}
    as_markdown(main(content))


def test_of_many_layers_some_are_drawn_and_all_are_in_the_table(tmp_path):
    shapes = tuple((4, 8 + i) for i in range(30))
    content = comparison([run(arm, 0, epochs=0, shapes=shapes) for arm in ("none", "lsh")])
    page, _ = written(content, tmp_path)
    shown = shown_layers(content.summary)
    assert len(shown) == MOST_LAYERS
    assert len(page.of("img")) == MOST_LAYERS + 2  # side by side, and the difference; there are no curves
    assert "24 of 30 layers, evenly spaced, are shown" in " ".join(" ".join(page.texts).split())
    assert len(page.tables["layers"]) == 1 + 2 * 30


def test_arms_differ_in_more_than_colour():
    drawn = styles([f"arm {i}" for i in range(12)], "arm 3")
    assert len({(style.dashes, style.marker) for style in drawn.values()}) == 12
    assert drawn["arm 3"].number is None


def test_bins_are_joined_only_where_pairs_are_few():
    many = np.zeros(90, dtype=int)
    many[40:50] = 1000
    assert len(coarser(many.tolist(), 6.0)) == 90
    few = np.zeros(90, dtype=int)
    few[30:60] = 1
    joined = coarser(few.tolist(), 17.0)
    assert len(joined) == 18
    assert joined.sum() == 30
    assert len(coarser(few.tolist(), 1.0)) == 90  # not wider than what is to be seen


def test_long_names_are_shortened_at_their_middle():
    assert short("abcdefghij", 7) == "abc…hij"
    assert short("abc", 7) == "abc"
    assert short("lsh norm=batch dropout=0.3", 13) == "lsh batch 0.3"
    assert short("lsh norm=batch", 14) == "lsh norm=batch"
    assert short("a$b") == r"a\$b"
