"""Probes depend on their seed alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hesscope.probes import BLOCK, gaussian, rademacher


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 3 * BLOCK), seed=st.integers(-(2**63), 2**63))
def test_a_shorter_probe_is_the_head_of_a_longer_one(n, seed):
    assert torch.equal(gaussian(n, seed), gaussian(n + BLOCK + 1, seed)[:n])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_dtypes_are_the_rounded_float64_probe(dtype):
    assert torch.equal(gaussian(1000, 3, dtype=dtype), gaussian(1000, 3).to(dtype))
    assert torch.equal(rademacher(1000, 3, dtype=dtype), rademacher(1000, 3).to(dtype))


def test_the_device_does_not_change_the_shape_or_dtype():
    probe = gaussian(7, 0, device="meta", dtype=torch.float32)
    assert probe.device.type == "meta"
    assert probe.shape == (7,)


def test_signs_are_those_of_the_gaussian_probe():
    assert torch.equal(rademacher(500, 5), gaussian(500, 5).sign())


def test_the_probe_of_seed_zero_never_changes():
    # The results of saved records are only repeatable while NumPy keeps this stream.
    expected = [0.15929546600623282, -1.7741885208017214, 1.3265118818830892]
    assert gaussian(3, 0).tolist() == expected


def test_blocks_and_seeds_are_uncorrelated_and_normal():
    probes = torch.stack(
        [gaussian(4 * BLOCK, seed)[b * BLOCK :][:BLOCK] for seed in (0, 1) for b in range(4)]
    )
    overlaps = probes @ probes.T / BLOCK
    assert (overlaps - torch.eye(8)).abs().max() < 5 * (2 / BLOCK) ** 0.5
    assert probes.mean(1).abs().max() < 5 / BLOCK**0.5
    assert (probes.pow(4).mean(1) - 3).abs().max() < 5 * (96 / BLOCK) ** 0.5


def test_the_global_generator_is_neither_used_nor_changed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = gaussian(10, 1)
    torch.manual_seed(1)
    assert torch.equal(first, gaussian(10, 1))
    torch.manual_seed(0)
    gaussian(10, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_another_process_makes_the_same_probe():
    code = "from hesscope.probes import gaussian; print(gaussian(70000, 11).sum().item())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(other.stdout) == gaussian(70_000, 11).sum().item()


def test_an_empty_probe_is_empty():
    assert gaussian(0, 0).shape == (0,)
