"""The comparisons that the documentation reports, made again from the archives of their runs."""

import re

import pytest

from tests.integration.commands import ROOT, run_script

DOCS = ROOT / "docs"
ARCHIVES = sorted(path.name for path in (DOCS / "results").glob("*.zip"))
OF_README = "cifar10-tuned.zip"
ARMS = ("none", "gram", "lsh", "lsh_exact")


def cells_by_arm(text):
    """The cells of the tables in a text, by the arm that their row names in one of its first two cells."""
    found = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            for arm in set(cells[:2]).intersection(ARMS):
                found.setdefault(arm, set()).update(filter(None, cells))
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The cells by arm in the report of an archive, which is made once."""
    made = {}

    def report_of(archive):
        if archive not in made:
            folder = tmp_path_factory.mktemp("gathered")
            run_script("compare", f"gather={DOCS / 'results' / archive}", "hydra.run.dir=out", cwd=folder)
            path = folder / "out" / archive.removesuffix(".zip") / "report.md"
            made[archive] = cells_by_arm(path.read_text(encoding="utf-8"))
        return made[archive]

    return report_of


@pytest.mark.parametrize("archive", ARCHIVES)
def test_the_page_shows_what_the_archived_runs_give(archive, report):
    page = (DOCS / "does-it-help.md").read_text(encoding="utf-8")
    sections = [part for part in re.split(r"^## ", page, flags=re.MULTILINE) if archive in part]
    shown = cells_by_arm("\n".join(sections))
    assert len(shown) > 1
    for arm, cells in shown.items():
        assert cells <= report(archive)[arm], f"{arm}: {cells - report(archive)[arm]}"


def test_the_readme_shows_what_the_archived_runs_give(report):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = [part for part in readme.split("\n## ") if part.startswith("Does it help?")]
    shown = cells_by_arm(section)
    assert set(shown) == set(ARMS)
    for arm, cells in shown.items():
        assert cells <= report(OF_README)[arm], f"{arm}: {cells - report(OF_README)[arm]}"
