"""Fill a template of this package."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from kubetune_trainer.log import duration
from kubetune_trainer.report.chart import curve_chart
from kubetune_trainer.report.facts import Facts
from kubetune_trainer.report.settings import settings
from kubetune_trainer.report.words import beginning, counted


def render(template: str, facts: Facts) -> str:
    """The text of a template with the facts of a run. HTML is escaped."""
    environment = Environment(
        loader=PackageLoader("kubetune_trainer.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "duration": duration,
        "counted": counted,
        "beginning": beginning,
        "settings": settings,
    }
    environment.globals["chart"] = curve_chart
    return environment.get_template(template).render(f=facts)
