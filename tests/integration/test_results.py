"""The comparisons that the documentation reports, made again from the archives of their runs."""

import re

import pytest

from tests.integration.commands import ROOT, run_script

DOCS = ROOT / "docs"
ARCHIVES = sorted(path.name for path in (DOCS / "results").glob("*.zip"))
OF_README = "cifar10-tuned.zip"


def cells_by_arm(text):
    """The cells of all tables in a text, by the first cell of their row."""
    found = {}
    for line in text.splitlines():
        if line.startswith("|"):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(first, set()).update(others)
    return found


def shown_beside(page, archive):
    """The cells that a page shows by arm, in its sections that name the archive."""
    sections = re.split(r"^#+ ", page, flags=re.MULTILINE)
    return cells_by_arm("\n".join(section for section in sections if archive in section))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of the archives, each made once."""
    made = {}

    def report(archive):
        if archive not in made:
            folder = tmp_path_factory.mktemp("gathered")
            run_script("compare", f"gather={DOCS / 'results' / archive}", "hydra.run.dir=out", cwd=folder)
            made[archive] = (folder / "out" / archive.removesuffix(".zip") / "report.md").read_text(encoding="utf-8")
        return made[archive]

    return report


@pytest.mark.parametrize("archive", ARCHIVES)
def test_the_page_shows_what_the_archived_runs_give(archive, reports):
    report = cells_by_arm(reports(archive))
    shown = shown_beside((DOCS / "does-it-help.md").read_text(encoding="utf-8"), archive)
    arms = [arm for arm in shown if arm in report]
    assert "none" in arms
    assert len(arms) > 1
    for arm in arms:
        assert shown[arm] - {""} <= report[arm], f"{arm}: {shown[arm] - report[arm]}"


def test_the_readme_shows_what_the_archived_runs_give(reports):
    report = cells_by_arm(reports(OF_README))
    (section,) = [
        part
        for part in (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")
        if part.startswith("Does it help?")
    ]
    shown = {arm: cells for arm, cells in cells_by_arm(section).items() if arm in report}
    assert {"none", "gram", "lsh", "lsh_exact"} <= set(shown)
    for arm, cells in shown.items():
        assert cells - {""} <= report[arm], f"{arm}: {cells - report[arm]}"
