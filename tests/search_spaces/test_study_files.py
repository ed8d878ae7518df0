"""The vocabulary, and which study files are read or refused."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from search_spaces import PROTOCOLS, SPACES, Architecture, Cell, MisuseError, Protocol, Replicate, grid, protocol_from, study_from
from search_spaces.spaces import PROTOCOL_OF_SPACE, Range, parse_seeds
from search_spaces.study_files import study_from_file, study_from_yaml

STUDY = """
name: first-map
protocol: {base: sound, sae_epochs: 40}
space:
  architectures: ["5-3-5", 10-5-10/20]
  sparsities: {from: 0.3, to: 0.98, count: 12}
  l1: {from: 1e-4, to: 1, count: 25, scale: log}
  seeds: "0:200"
"""


def changed(**changes: Any) -> dict[str, Any]:
    """A valid study with some fields, of the study or of its space, changed."""
    space = {"architectures": ["10-5-10"], "sparsities": [0.9], "l1": [0.01], "seeds": "0:3"}
    study: dict[str, Any] = {"name": "a", "protocol": "dissertation"}
    for key, value in changes.items():
        (space if key in space else study)[key] = value
    return {"space": space} | study


def test_architecture_is_written_as_it_is_read() -> None:
    """str and parse are inverse; the SAE's width is written only if it differs from the input's."""
    for text in ("5-3-5", "20-10-20", "10-5-10/20", "2-1-2"):
        assert str(Architecture.parse(text)) == text
    assert Architecture.parse("10-5-10") == Architecture(10, 5, 10)
    assert Architecture.parse("10-5-10/20").n_latents == 20


def test_study_file_is_read_as_yaml_1_2() -> None:
    """1e-4 is a number, 0:200 a range, and both ends of a range are exactly as written."""
    spec = study_from_yaml(STUDY, "study.yaml")
    assert spec.space.l1[0] == 1e-4
    assert spec.space.l1[12] == 0.01
    assert spec.space.l1[-1] == 1.0
    assert spec.space.sparsities[0] == 0.3
    assert spec.space.sparsities[-1] == 0.98
    assert sum(map(len, spec.replicates())) == 2 * 12 * 25 * 200
    assert spec.protocol.sae_training_steps == 40 * 16_384 // 128


def test_whole_numbers_are_decimal() -> None:
    """As in YAML 1.2, 010 is ten, 08 is eight, and 1:30 is not a number of minutes."""
    spec = study_from_yaml(STUDY.replace('"0:200"', '[010, 08, "20:22"]'), "study.yaml")
    assert tuple(spec.space.seeds) == (10, 8, 20, 21)


def test_long_runs_of_seeds_are_written_as_ranges() -> None:
    """A million seeds are one line of study.yaml."""
    assert parse_seeds((123, *range(100))).written() == [123, "0:100"]
    assert parse_seeds((3, 4, 9, 8, 7)).written() == [3, 4, 9, 8, 7]
    for seeds in ((5,), (1, 2, 3, 7, 8, 10, 11, 12), tuple(range(1000))):
        assert tuple(parse_seeds(parse_seeds(seeds).written())) == seeds


def test_listed_replicates_are_distinct() -> None:
    """With or without seeds that repeat `seed`, a replicate is the same and is trained once."""
    row = {"architecture": "3-2-3", "sparsity": 0.5, "l1": 0.1, "seed": 4}
    with pytest.raises(MisuseError, match="twice"):
        study_from(changed() | {"space": {"replicates": [row, row | {"ae_seed": 4}]}})
    with pytest.raises(MisuseError, match=r"replicates\.0.*seed=-1"):
        study_from(changed() | {"space": {"replicates": [row | {"data_seed": -1}]}})


RANGES = {"sparsities": {"from": 0.3, "to": 0.98}, "l1": {"from": 1e-4, "to": 1}}


def test_a_range_for_a_search_needs_no_count() -> None:
    """A range is written as a range and reads back the same."""
    spec = study_from(changed(**RANGES, search={"kind": "map"}))
    assert (spec.space.sparsities, spec.space.l1) == (Range(0.3, 0.98), Range(1e-4, 1.0))
    assert spec.to_mapping()["space"]["l1"] == {"from": 1e-4, "to": 1.0}
    again = study_from(spec.to_mapping())
    assert again == spec
    assert again.to_mapping() == spec.to_mapping()
    assert isinstance(again.space.l1, Range)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (RANGES, r"sparsities=\{from: 0\.3, to: 0\.98\} needs a count: a grid trains single values"),
        ({"l1": RANGES["l1"]}, r"l1=\{from: 0\.0001, to: 1\} needs a count"),
        ({"l1": {"from": 1, "to": 1}, "search": {"kind": "map"}}, "from < to"),
        ({"l1": {"from": 0.1, "to": 1, "scale": "linear"}, "search": {"kind": "map"}}, "scale='linear' needs a count"),
        ({"l1": {"from": 0.1}, "search": {"kind": "map"}}, "not a range"),
        ({"l1": {"from": 0, "to": 1}, "search": {"kind": "map"}}, "l1 from 0 to 1 cannot be an axis"),
    ],
)
def test_a_range_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    """A grid's range needs a count, a search's range two different ends."""
    with pytest.raises(MisuseError, match=said):
        assert study_from(changed(**changes)).domain


def test_study_file_round_trips() -> None:
    """The stored study file reads back as the same study."""
    spec = study_from_yaml(STUDY, "study.yaml")
    assert study_from(spec.to_mapping()) == spec
    listed = study_from(
        changed() | {"space": {"replicates": [{"architecture": "3-2-3", "sparsity": 0, "l1": 1, "seed": 4, "ae_seed": 5}]}}
    )
    assert study_from(listed.to_mapping()) == listed
    assert listed.replicates()[0].ae_seed.tolist() == [5]
    assert listed.replicates()[0].sae_seed.tolist() == [4]


@pytest.mark.parametrize(
    ("changes", "field", "remedy"),
    [
        ({"sparsities": [1.2]}, "sparsity=1.2", "outside [0, 1)"),
        ({"sparsities": [float("nan")]}, "sparsity=nan", "outside [0, 1)"),
        ({"sparsities": ["0.9"]}, "sparsity='0.9'", "without quotes"),
        ({"sparsities": {"from": 0.3}}, "sparsities", "from, to and count"),
        ({"architectures": ["10-5-9"]}, "architecture='10-5-9'", "10-5-10 or 9-5-9"),
        ({"architectures": ["5-5-5"]}, "5-5-5", "1 <= n_hidden < n_features"),
        ({"architectures": ["ten"]}, "architecture='ten'", "Write 10-5-10"),
        ({"l1": [-0.1]}, "l1=-0.1", "outside [0, 1e+06]"),
        ({"l1": [float("inf")]}, "l1=inf", "outside [0, 1e+06]"),
        ({"l1": {"from": 0, "to": 1, "count": 3, "scale": "log"}}, "from=0.0", "above 0"),
        ({"seeds": []}, "seeds", "at least one"),
        ({"seeds": "3:3"}, "seeds='3:3'", "3:4"),
        ({"seeds": "all"}, "seeds='all'", "start:stop"),
        ({"seeds": [1, 1]}, "seeds", "twice"),
        ({"protocol": "disertation"}, "protocol='disertation'", "'dissertation'"),
        ({"protocol": {"sae_epoch": 3}}, "'sae_epoch'", "'sae_epochs'"),
        ({"protocol": {"ae_learning_rate": -1}}, "ae_learning_rate: -1", "greater than 0"),
        ({"protocol": {"ae_batch_size": 3}}, "ae_batch_size=3", "divisor"),
        ({"engine": "fast"}, "engine", "'reference'"),
        ({"dtype": "float16"}, "dtype", "'float32'"),
        ({"pack_size": 0}, "pack_size=0", ">= 1"),
        ({"name": "../x"}, "name='../x'", "letters, digits"),
        ({"name": "-x"}, "name='-x'", "letters, digits"),
        ({"nme": "x"}, "nme", "'name'"),
        ({"protocol": {"base": ["x"]}}, "protocol=['x']", "Named protocols"),
        ({"protocol": {"unfaithful_below": float("nan")}}, "unfaithful_below: nan", "finite"),
        ({"protocol": {"ae_init_std": "big"}}, "ae_init_std: 'big'", "'xavier'"),
        ({"seeds": "0:4000000000"}, "4,000,000,000 seeds", "at most"),
        ({"space": "dissertatio"}, "space='dissertatio'", "'dissertation'"),
    ],
)
def test_bad_study_is_refused_in_one_line(changes: dict[str, Any], field: str, remedy: str) -> None:
    """The error names the field, the value and the remedy."""
    with pytest.raises(MisuseError) as error:
        study_from(changed(**changes))
    assert field in str(error.value)
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- 1", "just text", "name: [", "name: a\nname: b\nspace: smoke\nprotocol: sound"])
def test_file_that_is_no_study_is_refused(text: str, tmp_path: Path) -> None:
    """An empty file, a list, prose, broken YAML and a repeated key are refused."""
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(MisuseError, match=r"study\.yaml"):
        study_from_file(path)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, and bytes that are not text, are refused."""
    with pytest.raises(MisuseError, match="cannot be read"):
        study_from_file(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MisuseError, match="cannot be read"):
        study_from_file(tmp_path / "binary.yaml")


def test_values_are_made_whole_or_not_at_all() -> None:
    """Cell and Replicate check their values; a replicate's seed replaces those of the three that are not given."""
    with pytest.raises(MisuseError):
        Cell(Architecture(10, 5), 1.0, 0.01)
    with pytest.raises(MisuseError):
        Cell(Architecture(10, 5), 0.9, float("nan"))
    with pytest.raises(MisuseError):
        Replicate(Cell(Architecture(10, 5), 0.9, 0.01), -1)
    assert Replicate(Cell(Architecture(10, 5), 0.9, 0.01), 7, ae_seed=8) == Replicate(
        Cell(Architecture(10, 5), 0.9, 0.01), 7, 7, 8, 7
    )


def test_grid_is_every_combination_once() -> None:
    """The grid equals that of nested loops."""
    (only,) = grid(["3-2-3"], [0.1, 0.2], [0.0, 1.0], [5, 6, 7])
    expected = {(s, l1, seed) for seed in (5, 6, 7) for s in (0.1, 0.2) for l1 in (0.0, 1.0)}
    assert {(r.cell.sparsity, r.cell.l1, r.seed) for r in only} == expected
    assert len(only) == len(expected)


def test_named_spaces_have_their_sizes() -> None:
    """The named spaces hold what the documentation says."""
    sizes = {name: sum(map(len, space.replicates())) for name, space in SPACES.items()}
    assert sizes == {
        "smoke": 32,
        "dissertation": 7000,
        "sound": 7000,
        "architectures": 8 * 12 * 13 * 16,
        "full": 8 * 24 * 25 * 200,
        "thresholds": 8 * 4 * 2,
    }
    assert np.isclose(SPACES["full"].sparsities[1], 0.3 + 0.68 / 23, rtol=1e-11)


@pytest.mark.parametrize(("protocol", "l1"), [("dissertation", 0.01), ("sound", 0.12), ({"base": "sound", "sae_epochs": 40}, 0.12)])
def test_a_protocol_has_an_l1_of_its_own(protocol: object, l1: float) -> None:
    """It is taken where l1 is left out or `default`, of a grid and of listed replicates, and stored as a number."""
    grid_of = changed()["space"] | {"l1": "default"}
    row = {"architecture": "5-3-5", "sparsity": 0.5, "seed": 1}
    rows = [row, row | {"seed": 2, "l1": "default"}]
    without = {name: value for name, value in grid_of.items() if name != "l1"}
    for space in (grid_of, without, {"replicates": rows}, {"replicates": tuple(rows)}):
        spec = study_from(changed() | {"protocol": protocol, "space": space})
        assert {value for own in spec.replicates() for value in own.l1} == {l1}
        assert study_from(spec.to_mapping()) == spec
    with pytest.raises(MisuseError, match="l1='defualt' is not a list"):
        study_from(changed(l1="defualt"))


def test_a_named_space_has_a_protocol_of_its_own() -> None:
    """`sound` has the cells and seeds of `dissertation` under the protocol `sound`, and its l1. A given protocol overrides."""
    one, other = (study_from({"name": "a", "space": name}) for name in ("sound", "dissertation"))
    assert (one.protocol.name, other.protocol.name) == ("sound", "dissertation")
    assert one.space == SPACES["dissertation"].model_copy(update={"l1": (0.12,)})
    assert study_from({"name": "a", "space": "sound", "protocol": "dissertation"}).protocol.name == "dissertation"
    assert PROTOCOL_OF_SPACE.keys() == SPACES.keys()


def test_seeds_mix_numbers_and_ranges() -> None:
    """Seeds keep the given order."""
    assert tuple(parse_seeds([123, "0:3"])) == (123, 0, 1, 2)
    assert tuple(parse_seeds(7)) == (7,)


def test_protocol_id_is_a_hash_of_the_fields() -> None:
    """Equal fields give equal ids; each changed field gives another id."""
    base = PROTOCOLS["dissertation"]
    assert protocol_from({"base": "dissertation", "samples": 2000}) == base
    changed_ids = {
        dataclasses.replace(base, **change).protocol_id
        for change in ({"samples": 1000}, {"ae_epochs": 4}, {"dead_below": 0.02}, {"sae_init_std": 0.1}, {"ae_schedule": "cosine"})
    } | {protocol.protocol_id for protocol in PROTOCOLS.values()}
    assert len(changed_ids) == 5 + 3


def test_protocol_name_is_a_function_of_its_fields() -> None:
    """Equal protocols have equal ids, however they were made and in whatever order their fields were given."""
    one = protocol_from({"base": "dissertation", "sae_epochs": 1, "samples": 200})
    other = dataclasses.replace(PROTOCOLS["dissertation"], samples=200, sae_epochs=1)
    assert one == other
    assert one.name == other.name == "dissertation(samples=200, sae_epochs=1)"
    assert [protocol.name for protocol in PROTOCOLS.values()] == list(PROTOCOLS)


def test_protocol_ids_do_not_drift() -> None:
    """Stored rows are found by these ids: if one changed, every replicate made before would be lost."""
    assert {name: protocol.protocol_id for name, protocol in PROTOCOLS.items()} == {
        "dissertation": "44136fa355b3",
        "dissertation-diagnosis": "78b11c5400be",
        "sound": "4328fb7312a1",
    }


def test_epochs_and_steps_exclude_each_other() -> None:
    """Setting epochs clears the base's steps and vice versa; both or neither is refused."""
    assert protocol_from({"base": "sound", "ae_epochs": 2}).ae_steps is None
    with pytest.raises(ValueError, match="exactly one"):
        Protocol(ae_epochs=None)
    with pytest.raises(ValueError, match="exactly one"):
        dataclasses.replace(PROTOCOLS["sound"], ae_epochs=3)


HEAD = "name: a\nprotocol: dissertation\nspace: "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: &x [1]\ny: *x\n", "line 2, column 4: the alias \\*x is not read"),
        ("x: &x {a: 1}\nspace: {<<: *x}\n", "line 2, column 9: merge keys \\(<<\\) are not read"),
        (HEAD + "!!python/object/apply:os.system [x]", "the tag .* is not read"),
        (HEAD + "[" * 40_000, "nested more than 20 deep"),
        (HEAD + "- " * 10_000, "nested more than 20 deep|not allowed"),
        (HEAD + "[" + "1," * 60_000 + "]", "more than 50,000 values"),
        (HEAD + "{" + ",".join(f"k{key}: 1" for key in range(20_000)) + "}", "more than 1,000 fields"),
        (HEAD + "9" * 200_000, "200,000 digits"),
        (HEAD + "{2: 3}", "the key '2' is not text"),
        (HEAD + "{[1, 2]: 3}", "the key of a mapping is not text|is not text"),
        ("name: a\n---\nname: b", "single document"),
        ("name: a\x00b", "control characters|special characters"),
        ("# nothing", "is empty"),
        ("name: 2024\nprotocol: dissertation\nspace: smoke", 'Write it in quotes: name: "2024"'),
    ],
)
def test_text_beyond_the_limits_is_refused_in_one_line(text: str, said: str) -> None:
    """Aliases, merge keys, tags, depth, number and digits: before anything is made of them."""
    with pytest.raises(MisuseError, match=said) as error:
        study_from_yaml(text, "study.yaml")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_other_ends_of_lines_and_a_byte_order_mark_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(STUDY.replace("\n", "\r\n").encode(encoding))
    assert study_from_file(path) == study_from_yaml(STUDY, "study.yaml")


@pytest.mark.parametrize(("content", "said"), [(STUDY.encode("utf-16"), "UTF-8"), (b" " * 300_000, "longer than 262,144 bytes")])
def test_another_encoding_and_a_long_file_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(MisuseError, match=said):
        study_from_file(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"l1": {"from": 0.001, "to": 1, "count": 10**9}}, "count=1000000000 is not a whole number from 1 to 10,000"),
        ({"l1": {"from": 0.001, "to": 1, "count": 3.0}}, "count=3.0 is not a whole number"),
        ({"seeds": ["0:10000000", "20000000:30000000"]}, "20,000,000 seeds"),
        ({"seeds": ["0:10", "5:15"]}, "seeds lists 5 twice"),
        ({"seeds": [10**5000]}, "an integer of 16610 bits"),
        ({"sparsities": np.linspace(0, 0.9, 1000), "l1": np.linspace(0, 1, 1000), "seeds": "0:100"}, "100,000,000 replicates"),
        ({"search": {"kind": "map", "budget": 10**9}}, "budget=1000000000"),
        ({"search": {"kind": "map", "budget": True}}, "budget: True"),
        ({"search": {"kind": "l1"}, "sparsities": np.linspace(0, 0.9, 1001)}, "1,001 pairs"),
        ({"search": "map"}, "search='map' is not a mapping"),
        ({"architectures": ["1000001-1-1000001"]}, "at most 1,000,000"),
        ({"protocol": {"samples": 10**11}}, "samples: 100000000000"),
        ({"protocol": {"samples": 200.0}}, "samples: 200.0"),
        ({"protocol": {"ae_learning_rate": False}}, "ae_learning_rate: False"),
        ({"protocol": ["sound"]}, "neither a name nor a mapping"),
        ({"seeds": {1, 2}}, "a set, which has no order"),
        ({"seeds": (seed for seed in range(3))}, "a generator, which can be read only once"),
        ({"l1": {1: 2}}, "the key 1 is not text"),
    ],
)
def test_sizes_and_kinds_are_checked_before_anything_is_made(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MisuseError, match=said) as error:
        study_from(changed(**changes))
    assert str(error.value).isprintable()


def test_lists_that_hold_themselves_are_refused() -> None:
    """Directly, or so that they would be endless."""
    loop: list[Any] = []
    loop.append(loop)
    bomb: Any = [1]
    for _ in range(15):
        bomb = [bomb] * 10
    for value in (loop, bomb):
        with pytest.raises(MisuseError, match="nested too deeply"):
            study_from(changed(l1=value))


def test_arrays_series_and_numbers_of_numpy_are_read() -> None:
    """As lists and numbers of Python's own: the study and its id are the same."""
    made = study_from(
        changed(
            architectures=np.array(["5-3-5", "10-5-10"]),
            sparsities=pd.Series([0.5, 0.75]),
            l1=(Fraction(1, 2), Decimal("0.25"), np.float32(0.125)),
            seeds=np.arange(3),
            pack_size=np.int64(8),
            protocol={"samples": np.int64(200), "ae_learning_rate": np.float64(0.5), "importance_decay": -0.0},
        )
    )
    plain = study_from(
        changed(
            architectures=["5-3-5", "10-5-10"],
            sparsities=[0.5, 0.75],
            l1=[0.5, 0.25, 0.125],
            seeds="0:3",
            pack_size=8,
            protocol={"samples": 200, "ae_learning_rate": 0.5, "importance_decay": 0},
        )
    )
    assert made == plain
    assert yaml.safe_dump(made.to_mapping()) == yaml.safe_dump(plain.to_mapping())
    assert made.protocol.protocol_id == plain.protocol.protocol_id


def test_ten_million_seeds_take_no_memory() -> None:
    """They are kept as runs."""
    spec = study_from(changed(seeds=["0:9000000", "9000001:9999999"]))
    assert spec.space.seeds.runs == (range(9_000_000), range(9_000_001, 9_999_999))
    assert spec.space.size == 9_999_998
