"""How the outcome of a study is shown."""

from __future__ import annotations

from dataclasses import replace

from study.on_ray.outcome import Outcome
from study.storage.drivers import StudyState

OUTCOME = Outcome("s", "s3://bucket/studies/s?region=eu", StudyState.STOPPED, 10, 5, 4, {"sae_dead": 3}, 2.0, "compiled", ("<b>",))


def test_outcome_is_one_line() -> None:
    """In a terminal and in a log."""
    assert repr(OUTCOME) == "<Outcome s: stopped, 5 of 10 replicates; failures: sae_dead 3>"
    assert str(OUTCOME).startswith("Study s: stopped, 4 replicates trained in 2 s by the compiled engine")


def test_notebook_shows_counts_and_how_to_go_on() -> None:
    """What was text stays text; a URI's options follow the storage, not the study."""
    html = OUTCOME._repr_html_()
    assert "<td>none</td><td>1</td>" in html
    assert "<td>sae_dead</td><td>3</td>" in html
    assert "<p>&lt;b&gt;</p>" in html
    assert "study.resume(&#x27;s&#x27;, storage=&#x27;s3://bucket/studies?region=eu&#x27;)" in html
    assert "analysis.load(" in replace(OUTCOME, state=StudyState.DONE)._repr_html_()
