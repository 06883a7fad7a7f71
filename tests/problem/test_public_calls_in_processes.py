"""Public calls in two processes that share the data: what one process gives, or a refusal."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from tests.processes import in_processes
from tests.public_calls import CALLS, FIGURES, Stage, differences, numbers

REFUSED = {
    "spectrum of TangentKernel": "looks at single examples",
    "TangentKernel @ v": "looks at single examples",
    "influence": "looks at single examples",
    "batch_stability": "looks at single examples",
    "loss_path": "looks at single examples",
    "Problem of its own loss": "the loss of a batch is measured by each process for itself",
}
UNLIKE = {  # they run, and why their numbers are others
    "Problem.subsample": "each process draws from its own examples",
    "Problem.evaluation": "one entry for each batch of its own",
    "diagnose": "what looks at single examples is left out",
    "diagnose, an lr": "what looks at single examples is left out",
    "Examination": "what looks at single examples is left out",
    "sharpness": "rises of single parts of the data are left out",
    "Sharpness": "rises of single parts of the data are left out",
    "gram_spectrum": "zeros are computed, and so no more than rounding",
    "spectra": "counts eigenvalues that are zero but for rounding",
    "Spectrum": "counts eigenvalues that are zero but for rounding",
    "conditioning": "counts eigenvalues that are zero but for rounding",
    "batch_sharpness": "other random batches",
    "suggest_lr": "noise is measured on other parts of the data",
    "to_dict": "facts tell the number of processes",
    "basin": "walks along directions that are flat but for rounding",
    "Monitor": "its data is in both processes, and is twice as much",
    "escape": "its seed is fresh",
    "trace_penalty": "its signs are drawn anew",
}


def _all(_: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # the same as in one process, and judged by other tests
    found: dict[str, Any] = {}
    for name in CALLS:
        if name in FIGURES:
            continue
        try:
            found[name] = list(numbers(CALLS[name](Stage("cpu", torch.float64, shard=True))))
        except (ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_numbers_of_one_or_refuse():
    lives = in_processes(_all, 2)
    wrong = {}
    for name, found in lives[0].items():
        other = lives[1][name]
        if name in REFUSED:
            assert REFUSED[name] in found, name
            assert REFUSED[name] in other, name
        elif isinstance(found, str) or isinstance(other, str):
            wrong[name] = found, other
        elif name not in UNLIKE:
            expected = list(numbers(CALLS[name](Stage("cpu", torch.float64))))
            told = differences(found, expected, 1e-6) + differences(other, expected, 1e-6)
            if told:
                wrong[name] = told[:3]
    assert not wrong
