"""What every registered variant must satisfy, and what a protocol may say about it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from search_spaces import PROTOCOLS, Architecture, MisuseError, Protocol, protocol_from
from search_spaces.protocol import fields, register_variant
from search_spaces.variants import VARIANTS
from study.engines.contract import SparseAutoencoders
from study.kernels.forward import layout_of
from study.variants.contract import Parameter
from study.variants.registry import register, variant_of
from study.variants.relu import Relu

NEEDED: dict[str, dict[str, Any]] = {"topk": {"sae_k": 2}}
"""Fields without which a variant cannot be asked for."""
ARCHITECTURE = Architecture(6, 3, 8)


@pytest.fixture(params=sorted(VARIANTS))
def protocol(request: pytest.FixtureRequest) -> Protocol:
    """A protocol of each variant."""
    return protocol_from({"base": "sound", "sae_variant": request.param, **NEEDED.get(request.param, {})})


def started(protocol: Protocol) -> SparseAutoencoders:
    """Three SAEs before their first step, moved a little so that thresholds and biases are not all alike."""
    start = variant_of(protocol).start(ARCHITECTURE, [1, 2, 3], np.zeros((3, 3)), protocol)
    random = np.random.default_rng(0)
    return SparseAutoencoders({name: values + 0.1 * np.abs(random.normal(size=values.shape)) for name, values in start.items()})


def test_parameters_start_as_they_are_declared(protocol: Protocol) -> None:
    """Names, order and shapes; each within its range."""
    variant, saes = variant_of(protocol), started(protocol)
    assert list(saes.parameters) == [parameter.name for parameter in variant.parameters]
    for parameter in variant.parameters:
        values = saes.parameters[parameter.name]
        assert values.shape == (*parameter.shape(ARCHITECTURE), 3)
        assert parameter.lowest is None or (values >= parameter.lowest).all()
    assert saes.rows == variant.rows(ARCHITECTURE)


def test_the_layout_cuts_what_is_stacked(protocol: Protocol) -> None:
    """Parameter offsets of the kernels are where `stacked` puts the parameters."""
    saes = started(protocol)
    stacked, at = saes.stacked(), layout_of(saes.rows, 3, 8, protocol)
    np.testing.assert_array_equal(stacked[at.b_enc : at.W_dec], saes.parameters["b_enc"])
    np.testing.assert_array_equal(stacked[at.W_dec : at.b_dec].reshape(8, 3, 3), saes.W_dec)
    np.testing.assert_array_equal(stacked[at.b_dec : at.own], saes.b_dec)
    assert len(stacked) - at.own == 8 * len(variant_of(protocol).own_parameters)
    again = saes.with_values(stacked)
    assert all((again.parameters[name] == values).all() for name, values in saes.parameters.items())


def test_gradients_of_latents_that_do_not_fire_are_zero(protocol: Protocol) -> None:
    """With f = 0 for a latent in the whole minibatch its encoder and decoder do not move."""
    variant, saes = variant_of(protocol), started(protocol)
    saes.parameters["b_enc"][0] = -1e6
    slopes = saes.each(np.zeros_like)
    h = np.random.default_rng(1).normal(size=(5, 3, 3))
    f = variant.gradients(saes.parameters, h, np.full(3, 0.1), protocol, slopes.parameters)
    assert f.shape == (5, 8, 3)
    assert (f >= 0).all()
    assert not f[:, 0].any()
    for name in ("W_enc", "b_enc", "W_dec"):
        assert not slopes.parameters[name][0].any()
    assert slopes.b_dec.any()


def test_a_name_or_field_is_registered_once() -> None:
    """A second variant of a name, or with a field of that name, is refused and changes nothing."""
    before = fields()
    with pytest.raises(MisuseError, match="relu is taken"):
        register(Relu())

    class Other(Relu):
        name = "other"
        fields = VARIANTS["topk"].fields

    with pytest.raises(MisuseError, match="sae_k is taken"):
        register_variant(Other())
    assert fields() == before
    assert "other" not in VARIANTS


def test_lane_code_that_cannot_train_the_parameters_is_refused() -> None:
    """Two parameters of its own would stay where they start in one engine and move in the other."""

    class Gated(Relu):
        name = "gated_example"
        own_parameters = (Parameter("gate", "L"), Parameter("size", "L"))

    with pytest.raises(MisuseError, match="at most one"):
        register(Gated())
    assert "gated_example" not in VARIANTS


def test_fields_of_variants_are_fields_of_the_protocol() -> None:
    """They are replaced, compared, hashed and validated like others, and come after `sae_variant`."""
    protocol = dataclasses.replace(PROTOCOLS["sound"], sae_variant="topk", sae_k=3)
    assert protocol == protocol_from({"base": "sound", "sae_variant": "topk", "sae_k": 3})
    assert hash(protocol) == hash(protocol_from({"base": "sound", "sae_variant": "topk", "sae_k": 3}))
    assert dataclasses.replace(protocol, samples=512).sae_k == 3  # type: ignore[attr-defined]
    assert protocol.name == "sound(sae_variant=topk, sae_k=3)"
    assert fields().index("sae_k") == fields().index("sae_variant") + 1
    with pytest.raises(MisuseError, match="sae_k: 0"):
        protocol_from({"sae_variant": "topk", "sae_k": 0})
    with pytest.raises(MisuseError, match="the field is that of 'topk'"):
        protocol_from({"sae_k": 3})


def test_without_study_no_variant_but_the_default_is_known() -> None:
    """`search_spaces` alone says what to import."""
    code = (
        "from search_spaces import protocol_from\n"
        "assert protocol_from('sound').sae_variant == 'relu'\n"
        "try:\n    protocol_from({'sae_variant': 'jumprelu'})\nexcept ValueError as error:\n    print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "`import study`" in ran.stdout
