"""What a person reads about a finished run: report.html and the model card."""

from pathlib import Path

from kubetune_trainer.report.facts import Facts
from kubetune_trainer.report.render import render


def write(folder: Path, facts: Facts) -> None:
    """Write report.html (one file, no scripts, nothing fetched) and README.md."""
    (folder / "report.html").write_text(render("report.html.j2", facts), encoding="utf-8")
    (folder / "README.md").write_text(render("card.md.j2", facts), encoding="utf-8")
