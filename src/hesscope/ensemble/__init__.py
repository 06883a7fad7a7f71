"""Thousands of small networks of one shape, trained and differentiated twice in one go.

Sagun, Bottou and LeCun (2016) look at the spectra of thousands of copies of a network of 74
parameters. One by one, such networks cost Python calls and no arithmetic; here they are rows of
one tensor, and forward, backward and Hessian are batched matrix products in closed form::

    start = ensemble.initialise((2, 6, 6, 2), 5000, seed=0)
    trained = ensemble.train(start, inputs, labels, lr=0.5, steps=2000, record=[0, 100])
    eigenvalues = ensemble.spectra(trained.ensemble, inputs, labels)  # (5000, 74)

Losses are means over the N examples, as everywhere in hesscope.
"""

from __future__ import annotations

from hesscope.ensemble.curvature import hessians, spectra
from hesscope.ensemble.networks import Ensemble, initialise
from hesscope.ensemble.training import Trained, gradients, losses, train

__all__ = [
    "Ensemble",
    "Trained",
    "gradients",
    "hessians",
    "initialise",
    "losses",
    "spectra",
    "train",
]
