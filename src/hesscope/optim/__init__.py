"""Optimisers that use what the landscape says, one paper each, and penalties for any other."""

from hesscope.optim.asam import ASAM as ASAM
from hesscope.optim.entropy_sgd import EntropySGD as EntropySGD
from hesscope.optim.newton_cg import NewtonCG as NewtonCG
from hesscope.optim.perturbed_sgd import PerturbedSGD as PerturbedSGD
from hesscope.optim.saddle_free_newton import SaddleFreeNewton as SaddleFreeNewton
from hesscope.optim.sam import SAM as SAM
from hesscope.optim.subspace_sgd import SubspaceSGD as SubspaceSGD
