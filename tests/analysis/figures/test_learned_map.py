"""The figure of a failure map: what it stores, where it claims to be sure, and what it names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures.learned_map import MapDiagram, borderline, map_diagram, map_figure, plot_map
from search_spaces.coordinates import L1, SPARSITY, Axis
from search_spaces.surface.domain import Counts, Domain
from search_spaces.surface.surface import fit_surface

DOMAIN = Domain(("5-3-5", "10-5-10"), Axis(SPARSITY, 0.3, 0.98), Axis(L1, 1e-4, 1.0))


def rows(replicates: int = 1500) -> pd.DataFrame:
    """Dead above l1 = 0.01, dense where it is sparse, healthy elsewhere; nothing was trained in 10-5-10 at a low sparsity."""
    drawn = np.random.default_rng(0).uniform(size=(replicates, 3))
    names = np.where(drawn[:, 2] < 0.5, *DOMAIN.architectures)
    frame = pd.DataFrame({"architecture": names, "sparsity": 0.3 + 0.68 * drawn[:, 0], "l1": 10 ** (-4 + 4 * drawn[:, 1])})
    frame = frame[(frame["architecture"] == "5-3-5") | (frame["sparsity"] > 0.6)]
    dead, dense = frame["l1"] > 0.01, frame["sparsity"] > 0.8
    return frame.assign(failure=np.where(dead, "sae_dead", np.where(dense, "sae_dense", "none")))


@pytest.fixture(scope="module")
def diagram() -> MapDiagram:
    """The map of `rows`."""
    frame = rows()
    counts = Counts.of(DOMAIN, frame["architecture"], frame["sparsity"], frame["l1"], frame["failure"] != "none")
    return map_diagram(fit_surface(DOMAIN, counts), "any", 0.5, frame)


def test_stored_map_is_the_same_map(diagram: MapDiagram) -> None:
    """To the bit, so that a report draws what map.png shows."""
    again = MapDiagram.from_bytes(diagram.to_bytes())
    assert again.to_bytes() == diagram.to_bytes()
    assert (again.title, again.plane) == (diagram.title, diagram.plane)
    np.testing.assert_array_equal(again.fitted["5-3-5"].mean, diagram.fitted["5-3-5"].mean)


def test_share_of_the_map_is_that_of_the_truth(diagram: MapDiagram) -> None:
    """Half of the plane is dead, and 0.18/0.68 of the other half is dense."""
    assert diagram.share("5-3-5") == pytest.approx(0.5 + 0.5 * 0.18 / 0.68, abs=0.03)
    assert f"in {diagram.share('5-3-5'):.0%} to" in diagram.title or f"to {diagram.share('5-3-5'):.0%} of" in diagram.title


def test_nothing_is_drawn_where_nothing_was_measured(diagram: MapDiagram) -> None:
    """The part of a plane without replicates is missing, and so is it in the drawn cells."""
    mean = diagram.fitted["10-5-10"].mean
    assert np.isnan(mean[:, :20]).all()
    assert np.isfinite(mean[:, 90:]).all()
    assert np.isfinite(diagram.fitted["5-3-5"].mean).all()


def test_unsure_area_without_border_or_mixed_outcomes_is_not_drawn() -> None:
    """A corner that is unsure only because of the prior is rounded to its side; a border, and mixed outcomes, stay unsure."""
    mean, q = np.full((60, 60), 0.9), np.full((60, 60), 0.99)
    mean[:, :20], q[:, :18], q[:, 18:22] = 0.1, 0.01, 0.5
    q[:5, -5:] = q[-5:, -5:] = q[:5, :5] = 0.7
    q[:5, :5] = 0.2
    at = np.array([0.99, 0.99, 0.99, 0.99])
    counts = Counts(np.zeros(4, dtype=int), at, np.array([0.01, 0.01, 0.99, 0.99]), np.array([1, 1, 1, 0]), np.ones(4, dtype=int))
    found = borderline(mean, q, 0.5, counts)
    assert (found[:5, -5:] == 1).all()  # failures alone
    assert (found[:5, :5] == 0).all()  # nothing measured
    assert (found[-5:, -5:] == 0.7).all()  # a failure and a success
    assert (found[:, 18:22] == 0.5).all()  # the border


def test_kinds_are_named_where_they_are(diagram: MapDiagram) -> None:
    """Both kinds are written, each inside its own area; a map of one kind names none."""
    ax = Figure().subplots()
    plot_map(diagram, "5-3-5", ax)
    names = {text.get_text(): text.get_position() for text in ax.texts}
    assert set(names) == {"sae_dead", "sae_dense"}
    assert names["sae_dead"][1] > 0.01 > names["sae_dense"][1]
    assert names["sae_dense"][0] > 0.8
    assert ax.get_title() == f"5-3-5: {diagram.share('5-3-5'):.0%} of the plane fails"
    assert len(map_figure(diagram).axes) == 3
