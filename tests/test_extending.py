"""The files of examples/extensions/, which docs/extending.md shows: one call registers each, and everything then knows it.

`python -m tests.test_extending` copies the files into the page.

They are imported in a process of their own, so that no other test meets what they register.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
SHOWN = re.compile(r"<!-- (examples/extensions/\w+\.py) -->\n```python\n(.*?)```\n", re.DOTALL)
EXTENSIONS = ROOT / "examples" / "extensions"
FILES = sorted(EXTENSIONS.glob("*.py"))


def run(code: str, *arguments: str) -> str:
    """What a fresh process prints that can import the extensions."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXTENSIONS), str(ROOT), os.environ.get("PYTHONPATH", "")])}
    line = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_extension_is_short_and_shown_as_it_is(file: Path) -> None:
    """At most 60 lines, and docs/extending.md shows them letter for letter."""
    text, shown = file.read_text(), dict(SHOWN.findall(PAGE.read_text()))
    assert len(text.splitlines()) <= 60
    assert shown[str(file.relative_to(ROOT))] == text


VARIANT = """
import dataclasses, numpy as np, shifted_relu
from search_spaces import grid, protocol_from
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.schema import science_columns

def rows(engine, dtype, **changes):
    given = {"sae_variant": "shifted_relu", "samples": 200, "ae_epochs": 2, "sae_epochs": 3, "sae_init_std": 0.3, **changes}
    (replicates,) = grid(["5-3-5"], [0.5, 0.9], [0.001, 0.1], range(5))
    pack = Pack(replicates, protocol_from(given), dtype, engine)
    table = run_pack(pack)
    return [row for row in table.select(science_columns()).to_pylist()]

online = {}
minibatch = dict(sae_batch_size=20, sae_decoder_norm="unit", sae_decoder_init="unit_norm", sae_subtract_decoder_bias=True)
for changes in (online, minibatch):
    for dtype in ("float64", "float32"):
        assert repr(rows("compiled", dtype, **changes)) == repr(rows("reference", dtype, **changes)), (dtype, changes)
    exact, torch = rows("reference", "float64", **changes), rows("torch", "float64", **changes)
    for one, other in zip(exact, torch, strict=True):
        np.testing.assert_allclose(one["sae_loss"], other["sae_loss"], rtol=1e-6)
        assert one["l0"] == other["l0"]
shifted, plain = rows("auto", "float64"), rows("auto", "float64", sae_shift=0.0)
assert sum(row["l0"] for row in shifted) < sum(row["l0"] for row in plain)
relu = rows("auto", "float64", sae_variant="relu")
assert [row["sae_loss"] for row in plain] == [row["sae_loss"] for row in relu]
from study.history.deaths import latents_died_at
from study.history.history import training_history
(replicates,) = grid(["5-3-5"], [0.9], [0.1], [0])
pack = Pack(replicates, protocol_from({"sae_variant": "shifted_relu", "samples": 50}), "float64", "auto")
died = latents_died_at(training_history(pack), pack.protocol)
assert sum(at is not None for at in died) == run_pack(pack)["dead_latents"][0].as_py()
print(pack.engine)
"""


@pytest.mark.slow
def test_a_variant_trains_in_every_engine() -> None:
    """`compiled` gives the bits of `reference`, `torch` the same to tolerance; a shift of 0 is `relu`; the history knows it."""
    assert run(VARIANT).split() == ["compiled"]


SQUARED = """
from typing import Any
import numpy as np
from study.variants.contract import Parameter, Variant
from study.variants.registry import register

class SquaredRelu(Variant):
    name = "squared_relu"

    def activate(self, s, theta, protocol):
        return np.maximum(s, 0) * np.maximum(s, 0)

    def slope(self, q, code, theta, protocol):
        return q * (np.maximum(code.s, 0) + np.maximum(code.s, 0))

    def torch_loss(self, protocol):
        from study.variants.torch_forward import pre_activations, squared_error
        def loss(theta, h, l1):
            f = pre_activations(theta, h, protocol).relu().square()
            return squared_error(theta, h, f) + (l1 * f).sum() / len(h)
        return loss

    def lane_code(self):
        from study.kernels.lane_code import LaneCode
        from study.kernels.lanes import relu
        def activate(s, P, row, k):
            return relu(s, k.zero) * relu(s, k.zero)
        def slope(q, s, f, P, row, k):
            return q * (relu(s, k.zero) + relu(s, k.zero))
        return LaneCode(activate, slope=slope)

register(SquaredRelu())
"""


@pytest.mark.slow
def test_an_activation_of_another_slope_says_which(tmp_path: Path) -> None:
    """f = max(s, 0)², with df/ds = 2 max(s, 0): the engines agree, minibatches that do not fill the last tile included."""
    (tmp_path / "squared_relu.py").write_text(SQUARED)
    code = (
        VARIANT.split("shifted, plain =")[0]
        .replace("shifted_relu", "squared_relu")
        .replace("sae_batch_size=20", "sae_batch_size=25")
    )
    run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}")


WITHOUT_LANES = """
import shifted_relu
from search_spaces import grid, protocol_from
from study.engines.registry import engine_for
from study.packs import Pack
from study.run_pack import run_pack
from study.storage.schema import science_columns

(replicates,) = grid(["5-3-5", ], [0.5, 0.9], [0.001, 0.1], range(3))
protocol = protocol_from({"sae_variant": "shifted_relu", "samples": 150, "ae_epochs": 2, "sae_epochs": 3, "sae_init_std": 0.3})
with_lanes = run_pack(Pack(replicates, protocol, "float64", "reference")).select(science_columns()).to_pylist()
shifted_relu.ShiftedRelu.has_lane_code = property(lambda self: False)
without = run_pack(Pack(replicates, protocol, "float64", "reference")).select(science_columns()).to_pylist()
assert repr(with_lanes) == repr(without)
print(engine_for("auto", protocol).name)
try:
    engine_for("compiled", protocol)
except ValueError as error:
    print(error)
"""


def test_a_variant_without_lane_code_is_measured_to_the_same_bits() -> None:
    """Its codes then come from its NumPy forward pass; `auto` takes an engine that can, and `compiled` is refused by name."""
    auto, refusal = run(WITHOUT_LANES).splitlines()
    assert auto == "torch"
    assert "engine='compiled' cannot train" in refusal
    assert "reference" in refusal


METRIC_AND_VERDICT = """
import numpy as np, shrunken
from search_spaces.failures import failure_choices
from study import run_here

rows = run_here({"name": "small", "protocol": {"samples": 200, "ae_epochs": 2, "sae_epochs": 2},
                 "space": {"architectures": ["5-3-5"], "sparsities": [0.9], "l1": [0.0, 0.01], "seeds": "0:20"}})
norms, verdicts = rows["decoder_norm"].to_numpy(), rows["failure"].to_numpy(zero_copy_only=False)
assert np.isfinite(norms).all()
assert "shrunken" in failure_choices()
first_of = set(verdicts[norms < 0.1].tolist())
assert "shrunken" in first_of and not first_of & {"unfaithful", "unrecovered", "none"}, first_of
assert not (verdicts[norms >= 0.1] == "shrunken").any()
"""


def test_a_metric_is_a_column_and_a_verdict_is_judged() -> None:
    """The verdict reads the metric's column, and takes precedence where it says so."""
    run(METRIC_AND_VERDICT)


SEARCH = """
import halving
from study import run_here

study = {"name": "half", "protocol": {"samples": 500, "ae_epochs": 2, "sae_epochs": 5},
         "search": {"kind": "halving", "seeds": 8, "steps": 6},
         "space": {"architectures": ["5-3-5"], "sparsities": [0.9], "l1": {"from": 1e-3, "to": 10}, "seeds": "0:1"}}
rows = run_here(study).to_pandas()
assert len(rows) == 48 and rows.groupby("l1").size().eq(8).all()
tried = list(dict.fromkeys(rows["l1"]))
dead = rows.groupby("l1")["failure"].apply(lambda kinds: (kinds == "sae_dead").mean())
ends = [1e-3, 10]
for value in tried:
    assert abs(value / (ends[0] * ends[1]) ** 0.5 - 1) < 1e-12
    ends[1 if dead[value] >= 0.5 else 0] = value
assert run_here(study)["replicate_id"].equals(run_here(study)["replicate_id"])
"""


def test_a_search_is_led_to_its_end() -> None:
    """Each batch halves the range that is left, and the same study asks the same again."""
    run(SEARCH)


ON_RAY = """
import sys, shifted_relu, shrunken
from analysis import load
from study import launch

storage = sys.argv[1]
launch("smoke", name="shifted", seeds="0:2", storage=storage, workers=1,
       protocol={"sae_variant": "shifted_relu", "samples": 200, "ae_epochs": 1, "sae_epochs": 1})
frame = load("shifted", storage)
assert len(frame) == 8 and frame["decoder_norm"].notna().all()
assert set(frame["protocol"]) == {"dissertation(samples=200, ae_epochs=1, sae_variant=shifted_relu, sae_epochs=1)"}
"""


@pytest.mark.ray
@pytest.mark.slow
def test_workers_import_what_the_driver_registered(tmp_path: Path) -> None:
    """A study on a local Ray of its own trains the variant and measures the metric on its workers."""
    run(ON_RAY, str(tmp_path))


def test_a_script_cannot_register_for_workers(tmp_path: Path) -> None:
    """What `__main__` registers would be unknown to workers: refused before anything starts."""
    script = (EXTENSIONS / "shifted_relu.py").read_text() + (
        "\nfrom study import launch\n"
        "try:\n"
        "    launch('smoke', name='x', storage=__import__('sys').argv[1], protocol={'sae_variant': 'shifted_relu'})\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    assert "Move it to a file" in run(script, str(tmp_path))
    assert not list(tmp_path.iterdir())


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(SHOWN.sub(lambda shown: f"<!-- {shown[1]} -->\n```python\n{(ROOT / shown[1]).read_text()}```\n", page))
