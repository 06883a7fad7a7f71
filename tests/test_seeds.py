"""Every use of randomness has numbers of its own, and a fresh seed is one that nobody knew."""

from __future__ import annotations

import itertools

import pytest
import torch

import hesscope as hs
from hesscope import probes

N = 300
MATRIX = torch.diag(
    torch.cat([torch.linspace(0, 1, N - 3), torch.tensor([4.0, 3.0, -2.0])]).double()
)


class Recording(hs.SymmetricOperator):
    """Notes the seeds that it is asked probes for."""

    def __init__(self):
        super().__init__(N, dtype=torch.float64)
        self.keys = []

    def matmat(self, V):
        return MATRIX @ V

    def probe(self, seed):
        self.keys.append(seed)
        return super().probe(seed)


CALLS = {
    "eigsh": lambda A, seed: hs.eigsh(A, 3, seed=seed),
    "spectral_density": lambda A, seed: hs.spectral_density(A, 40, seed=seed),
    "trace": lambda A, seed: hs.trace(A, rtol=None, max_matvecs=30, seed=seed),
    "frobenius_norm": lambda A, seed: hs.frobenius_norm(A, seed=seed),
    "trace_function": lambda A, seed: hs.trace_function(A, torch.exp, seed=seed),
    "logdet": lambda A, seed: hs.logdet(A, 5.0, seed=seed),
    "diagonal": lambda A, seed: hs.diagonal(A, 40, seed=seed),
    "conditioning": lambda A, seed: hs.conditioning(A, 40, seed=seed),
    "check_operator": lambda A, seed: hs.check_operator(A, seed=seed),
}


def test_no_two_purposes_draw_the_same_and_no_one_the_seed_itself():
    drawn = {}
    for name, call in CALLS.items():
        A = Recording()
        call(A, 0)
        drawn[name] = set(A.keys)
        twice = name == "check_operator"  # its two vectors one by one, then as a block
        assert len(A.keys) == (1 + twice) * len(drawn[name]) > 0
        assert not drawn[name] & set(range(1000))
    alike = [{"trace", "frobenius_norm"}, {"trace_function", "logdet"}]
    alike.append({"spectral_density", "conditioning"})  # two names of one measurement
    for one, other in itertools.combinations(CALLS, 2):
        assert bool(drawn[one] & drawn[other]) == ({one, other} in alike)


def test_a_seed_gives_the_same_numbers_again_and_another_seed_does_not():
    for call in CALLS.values():
        once, again, other = Recording(), Recording(), Recording()
        first, second = call(once, 3), call(again, 3)
        call(other, 4)
        assert str(first) == str(second)
        assert once.keys == again.keys
        assert not set(once.keys) & set(other.keys)


@pytest.mark.parametrize("name", ["eigsh", "spectral_density", "trace", "trace_function"])
def test_a_fresh_seed_is_kept_in_the_result_and_gives_it_again(name, monkeypatch):
    monkeypatch.undo()  # here seeds are fresh
    first, second = (CALLS[name](hs.as_operator(MATRIX), None) for _ in range(2))
    assert first.seed != second.seed
    again = CALLS[name](hs.as_operator(MATRIX), first.seed)
    assert str(again) == str(first)
    assert again.seed == first.seed


@pytest.mark.parametrize("seed", [1.0, "0", True])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(ValueError, match="is no integer"):
        hs.eigsh(MATRIX, seed=seed)


def test_at_a_kicked_point_counts_and_certificates_hold():
    n = 500
    bowl = hs.Problem.from_function(
        lambda t: 0.5 * t @ t - 0.1 * (t @ t) ** 2, torch.zeros(n).double()
    )
    kicked = bowl.at(hs.kick(bowl, 1.0))  # H = 0.6 I - 0.8 θθᵀ with θ the direction of the kick
    H = hs.Hessian(kicked)
    density = hs.spectral_density(H, 60, seed=0)
    assert 1 in density.count(high=0.0)
    assert density.lower <= -0.2 + 1e-9
    assert density.upper >= 0.6 - 1e-9
    assert float(hs.eigsh(H, 1, seed=0).eigenvalues[0]) == pytest.approx(0.6)
    assert 0.6 * n - 0.8 in hs.trace(H, seed=0).interval(0.999)


def test_a_matrix_against_the_start_of_a_seed_deceives_that_seed_alone(monkeypatch):
    for seed in range(3):
        start = probes.gaussian(N, probes.key(seed, "start of eigsh", 0))
        hidden = torch.zeros(N, dtype=torch.float64)
        hidden[:2] = torch.tensor([start[1], -start[0]])
        hidden /= hidden.norm()
        d = torch.linspace(0, 1, N).double()
        d[:3] = torch.tensor([0.5, 0.5, 2.0])
        A = hs.as_operator(torch.diag(d) + 2.5 * torch.outer(hidden, hidden))
        deceived = hs.eigsh(A, 1, verify=False, seed=seed)
        assert float(deceived.eigenvalues[0]) == pytest.approx(2.0)
        assert deceived.certificate.complete  # for matrices that were not built from this seed
        assert float(hs.eigsh(A, 1, verify=False, seed=seed + 1).eigenvalues[0]) > 2.9
    monkeypatch.undo()
    for _ in range(20):
        assert float(hs.eigsh(A, 1, verify=False).eigenvalues[0]) > 2.9


def test_layers_and_points_have_probes_of_their_own():
    keys = {
        probes.key(0, purpose, i) for purpose in ("layer map", "point", "kick") for i in range(9)
    }
    assert len(keys) == 27
