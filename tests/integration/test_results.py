"""The comparisons that the documentation reports, made again from the archives of their runs."""

import re
import shlex

import pytest

from tests.integration.commands import ROOT, run_script

DOCS = ROOT / "docs"
ARCHIVES = sorted(path.name for path in (DOCS / "results").glob("*.zip"))
OF_README = "cifar10-tuned.zip"


def sections_of(archive):
    """The sections of the documentation that name an archive, and the options with which they gather its runs."""
    pages = [path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))]
    sections = [part for page in pages for part in re.split(r"^## ", page, flags=re.MULTILINE)]
    about = [part for part in sections if f"results/{archive}" in part]
    command = re.compile(rf"scripts/compare\.py\s+gather=docs/results/{re.escape(archive)}([^`\n]*)")
    (options,) = {found for part in about for found in command.findall(part)}
    return about, shlex.split(options)


def rows_of(text):
    """The rows of the tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def subjects_of(text):
    """What the rows of a report are about: arms, or the combinations and pairs of a factorial."""

    def first_cells(title, count):
        section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
        return {" ".join(cells[:count]) for cells in rows_of(section)[2:]}

    of_factors = first_cells("Every combination of the factors", 1) | first_cells("In place of other regularizers", 2)
    return of_factors or first_cells("The arms", 1)


def cells_by_subject(text, subjects):
    """The cells of the tables in a text, by the subject that one or both of the first two cells of a row name."""
    found = {}
    for cells in rows_of(text):
        for subject in {*cells[:2], " ".join(cells[:2])}.intersection(subjects):
            found.setdefault(subject, set()).update(filter(None, cells))
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The cells by subject in the report of an archive, which is made once."""
    made = {}

    def report_of(archive):
        if archive not in made:
            folder = tmp_path_factory.mktemp("gathered")
            options = sections_of(archive)[1]
            path = DOCS / "results" / archive
            run_script("compare", f"gather={path}", *options, "hydra.run.dir=out", cwd=folder)
            text = (folder / "out" / archive.removesuffix(".zip") / "report.md").read_text(encoding="utf-8")
            made[archive] = cells_by_subject(text, subjects_of(text))
        return made[archive]

    return report_of


@pytest.mark.parametrize("archive", ARCHIVES)
def test_the_pages_show_what_the_archived_runs_give(archive, report):
    shown = cells_by_subject("\n".join(sections_of(archive)[0]), report(archive))
    assert set(shown) == set(report(archive))
    for subject, cells in shown.items():
        assert cells <= report(archive)[subject], f"{subject}: {cells - report(archive)[subject]}"


def test_the_readme_shows_what_the_archived_runs_give(report):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = [part for part in readme.split("\n## ") if part.startswith("Does it help?")]
    shown = cells_by_subject(section, report(OF_README))
    assert set(shown) == set(report(OF_README))
    for arm, cells in shown.items():
        assert cells <= report(OF_README)[arm], f"{arm}: {cells - report(OF_README)[arm]}"
