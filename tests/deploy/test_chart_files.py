"""The generated files of the Helm chart fit their sources."""

import json

import pytest

from service import __version__
from service.settings import PREFIX, Settings
from tools.chart.paths import CHART, README, SCHEMA
from tools.chart.readme import render_readme
from tools.chart.settings import render_schema
from tools.chart.values import read_values

RUN = "run `python -m tools.chart`"


def test_the_schema_has_exactly_the_settings_of_the_service():
    assert SCHEMA.read_text() == render_schema(), RUN
    schema = json.loads(SCHEMA.read_text())["definitions"]
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(schema["settings"]["properties"]) == names
    assert schema["settings"]["additionalProperties"] is False


def test_the_readme_is_made_from_the_values():
    assert README.read_text() == render_readme(), RUN


def test_every_value_has_a_comment():
    values = {value.path: value for value in read_values()}
    assert values["drain.seconds"].default == 20
    assert all(value.text[0].isupper() or value.text[0] == "`" for value in values.values())


def test_a_value_without_a_comment_is_found(tmp_path, monkeypatch):
    file = tmp_path / "values.yaml"
    file.write_text("# -- A\na:\n  b: 1\nc: 2\n")
    monkeypatch.setattr("tools.chart.values.VALUES", file)
    with pytest.raises(ValueError, match=r"for c$"):
        read_values()


def test_the_longest_name_of_a_pod_is_the_owner_of_a_session():
    """The chart cuts names after 52 characters; a StatefulSet adds "-" and a number."""
    schema = json.loads(SCHEMA.read_text())
    longest = schema["definitions"]["nameOrEmpty"]["maxLength"]
    assert Settings(session_owner="a" * longest + "-9999").session_owner.endswith("-9999")


def test_the_chart_has_the_version_of_the_service():
    chart = (CHART / "Chart.yaml").read_text()
    assert f'appVersion: "{__version__}"' in chart
