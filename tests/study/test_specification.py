"""What a launch is given, and which options override it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces import MisuseError, study_from
from search_spaces.spaces import SPACES
from study.specification import study_spec
from tests.conftest import TINY

GIVEN: dict[str, Any] = {
    "name": "given",
    "protocol": TINY,
    "dtype": "float32",
    "space": {"architectures": ["5-3-5"], "sparsities": [0.5, 0.9], "l1": [0.01, 0.1], "seeds": "0:3"},
}
SEARCHING = GIVEN | {"search": {"kind": "l1", "budget": 40, "level": 0.2}}
LISTED = GIVEN | {"space": {"replicates": [{"architecture": "5-3-5", "sparsity": 0.9, "l1": 0.01, "seed": 0}]}}


@pytest.mark.parametrize("given", [GIVEN, SEARCHING, LISTED])
def test_all_ways_to_give_a_study_give_the_same(given: dict[str, Any], tmp_path: Path) -> None:
    """A mapping, the specification made of it, and a file that holds it."""
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(given))
    spec = study_from(given)
    assert study_spec(given) == study_spec(spec) == study_spec(file) == study_spec(str(file)) == spec


def test_a_named_space_is_studied_under_its_name() -> None:
    spec = study_spec("smoke")
    assert (spec.name, spec.protocol.name, spec.space) == ("smoke", "dissertation", SPACES["smoke"])


def test_a_named_space_is_studied_under_its_protocol() -> None:
    assert study_spec("sound").protocol.name == study_spec("smoke", protocol="sound").protocol.name == "sound"


@pytest.mark.parametrize("given", [GIVEN, study_from(GIVEN)])
def test_options_override_what_was_given(given: Any) -> None:
    spec = study_spec(given, name="other", protocol="sound", engine="reference", dtype="float64", seeds="5:7", pack_size=3)
    assert (spec.name, spec.protocol.name, spec.engine, spec.dtype, spec.pack_size) == ("other", "sound", "reference", "float64", 3)
    assert spec.space == study_from(GIVEN | {"space": GIVEN["space"] | {"seeds": "5:7"}}).space


@pytest.mark.parametrize(
    ("options", "said"),
    [({"dtype": "float16"}, "dtype"), ({"pack_size": 0}, "pack_size=0"), ({"name": "a/b"}, "name='a/b'"), ({"protocol": "x"}, "x")],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        study_spec(study_from(GIVEN), **options)


def test_a_search_goes_on_from_the_study_s_own_of_its_kind() -> None:
    """A search of another kind, or one beside a plain launch of the space, starts from its defaults."""
    same = study_spec(study_from(SEARCHING), search={"kind": "l1", "budget": 60})
    assert same == study_from(SEARCHING | {"search": {"kind": "l1", "budget": 60, "level": 0.2}})
    other = study_spec(SEARCHING, search={"kind": "map", "budget": 60})
    assert other == study_from(SEARCHING | {"search": {"kind": "map", "budget": 60}})
    beside = study_spec(GIVEN, search={"kind": "map"})
    assert beside == study_from(GIVEN | {"name": "given-map", "search": {"kind": "map"}})
    assert study_spec("smoke", search={"kind": "l1"}, name="mine").name == "mine"
    assert study_spec(GIVEN | {"search": "l1"}, search={"kind": "map"}) == beside


def test_a_file_of_ranges_is_searched(tmp_path: Path) -> None:
    """Alone it is no grid, and the error names the file. The file is checked together with the options, not by itself."""
    file = tmp_path / "study.yaml"
    space = GIVEN["space"] | {"l1": {"from": 0.001, "to": 1.0}}
    file.write_text(json.dumps(GIVEN | {"space": space}))
    assert study_spec(file, search={"kind": "map"}).search_budget == 10_000
    with pytest.raises(MisuseError, match=r"study\.yaml: l1=\{from: 0\.001, to: 1\} needs a count"):
        study_spec(file)


@pytest.mark.parametrize(("given", "said"), [(SEARCHING, "numbers its seeds itself"), (LISTED, "needs a grid")])
def test_seeds_are_those_of_a_grid(given: dict[str, Any], said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        study_spec(given, seeds="0:2")
