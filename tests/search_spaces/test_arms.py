"""Studies of several protocols, and ablations, as study files give them."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces import PROTOCOLS, MisuseError, protocol_from, study_from
from search_spaces.arms import Arm, ablation_from, arms_from, differences, nearest
from study.specification import study_spec

SPACE: dict[str, Any] = {"architectures": ["5-3-5", "6-3-6"], "sparsities": [0.5, 0.9], "seeds": "0:3"}
UNIT = {"base": "dissertation", "sae_decoder_norm": "unit"}


def given(**space: Any) -> dict[str, Any]:
    return {"name": "a", "space": SPACE | space}


def test_each_protocol_has_its_own_l1_unless_l1_is_given() -> None:
    """A protocol's own comes first, then that of the space, then the default."""
    own = study_from(given(protocols=["dissertation", "sound", UNIT | {"l1": 0.5}]))
    assert [arm.l1 for arm in own.arms] == [(0.01,), (0.12,), (0.5,)]
    shared = study_from(given(protocols=["dissertation", "sound", UNIT | {"l1": [0.5]}], l1=[0.1, 0.2]))
    assert [arm.l1 for arm in shared.arms] == [(0.1, 0.2), (0.1, 0.2), (0.5,)]
    assert shared.space.size == sum(map(len, shared.replicates())) == 2 * 2 * 3 * 5


def test_a_study_of_several_protocols_is_written_as_it_is_read() -> None:
    """In full, whatever short form it was given in; options that name no protocol keep it."""
    for spec in (study_from(given(protocols=["dissertation", UNIT])), study_from(given() | {"ablate": ENDS})):
        written = spec.to_mapping()
        assert "protocol" not in written
        assert study_from(written) == spec == study_spec(spec)
        assert study_spec(spec, seeds="0:2").arms == spec.arms
        with pytest.raises(MisuseError, match="exclude each other"):
            study_spec(spec, protocol="dissertation-diagnosis")
    assert "protocols" not in study_from(given(l1=[0.1]) | {"protocol": "sound"}).to_mapping()["space"]


ENDS = {"from": "dissertation", "to": "sound"}


def test_an_ablation_changes_one_difference_at_a_time_both_ways() -> None:
    """Every difference of the two is changed alone in each, l1 included, or with the fewest that make the protocol valid."""
    arms = ablation_from(ENDS)
    ends, names = arms[:2], set(differences(*arms[:2]))
    assert {"data", "sae_init", "sae_decoder_norm", "sae_learning_rate", "l1"} <= names
    assert len({(arm.protocol, arm.l1) for arm in arms}) == len(arms) == 2 + 2 * len(names)
    for end in ends:
        changed = [differences(end, arm) for arm in arms[2:] if nearest(arm, ends) is end]
        assert {name for pair in changed for name in pair} == names
        assert sum(len(pair) == 1 for pair in changed) >= len(names) - 2
    assert Arm(PROTOCOLS["dissertation"], (0.12,)) in arms
    assert Arm(protocol_from(UNIT), (0.01,)) in arms


def test_more_samples_train_no_longer() -> None:
    """Epochs become as many steps, so that the amount of data is one difference and the length of training another."""
    (changed,) = (arm for arm in ablation_from(ENDS)[2:] if differences(ablation_from(ENDS)[0], arm) == ("data",))
    assert (changed.protocol.samples, changed.protocol.ae_training_steps, changed.protocol.sae_training_steps) == (
        16384,
        10000,
        40000,
    )


def test_two_protocols_of_one_difference_are_an_ablation_of_two() -> None:
    assert len(ablation_from({"from": "dissertation", "to": UNIT})) == 2
    assert len(ablation_from(ENDS, [0.1])) == len(ablation_from(ENDS)) - 2


def test_a_named_space_is_ablated_at_each_protocol_s_own_l1() -> None:
    assert [arm.l1 for arm in study_from({"name": "a", "space": "smoke", "ablate": ENDS}).arms[:2]] == [(0.01,), (0.12,)]


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (given(protocols=[]), "not a list of 1 to"),
        (given(protocols="sound"), "not a list of 1 to"),
        (given(protocols=["sound", "sound"]), "lists 'sound' twice"),
        (given(protocols=["sound", "sond"]), "Did you mean 'sound'"),
        (given(protocols=["sound", UNIT | {"l1": "x"}]), "l1='x' is not a number"),
        (given(protocols=["sound", UNIT | {"l1": []}]), "is empty"),
        (given(protocols=["sound"], l1={"from": 0.1, "to": 1}), "single values of l1"),
        (given(protocols=["sound", UNIT]) | {"protocol": UNIT}, "exclude each other"),
        (given(protocols=["sound", UNIT]) | {"ablate": ENDS}, "Give one of the two"),
        (given(protocols=["sound", UNIT]) | {"search": {"kind": "map"}}, "a search runs under one protocol"),
        (given() | {"ablate": "sound"}, "is not a mapping of from and to"),
        (given() | {"ablate": ENDS | {"via": "sound"}}, "is not a mapping of from and to"),
        (given() | {"ablate": {"from": "sound", "to": "sound"}}, "are both sound"),
        ({"name": "a", "ablate": ENDS, "space": {"replicates": []}}, "compared on a grid"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(study: dict[str, Any], said: str) -> None:
    with pytest.raises(MisuseError, match=said) as error:
        study_from(study)
    assert "\n" not in str(error.value)


def test_arms_are_read_back() -> None:
    arms = ablation_from(ENDS)
    assert arms_from([arm.to_mapping() for arm in arms]) == arms
