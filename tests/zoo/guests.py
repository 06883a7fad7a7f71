"""Models of other packages; each is skipped where its package is not installed.

`make test-zoo` puts the packages of `guests.txt` into a folder of their own, without what they
depend on: some ask for torchvision, which breaks an environment with torch for CPUs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.blocks import Mean, entropy, inputs, seeded
from tests.zoo.specimen import NUM, Specimen, loss_of_output
from tests.zoo.text import VOCABULARY, continued, words

Batch = Callable[[torch.Generator], Any]
Loss = Callable[[nn.Module, Any], Tensor]


def row(
    name: str, make: Callable[[], nn.Module], batch: Batch, loss: Loss = entropy, **kw: Any
) -> Specimen:
    return Specimen(name, "guest", seeded(make), batch, loss, **kw)


class Graphs(Specimen):
    """A specimen whose batch is a torch_geometric Batch of NUM graphs."""

    def cut(self, batch: Any, part: slice) -> Any:
        from torch_geometric.data import Batch

        return Batch.from_data_list([graph.clone() for graph in batch[part]])

    def examples(self, batch: Any) -> int:
        return batch.num_graphs


def graphs(generator: torch.Generator) -> Any:
    from torch_geometric.data import Batch, Data

    def graph(kind: int) -> Any:
        edges = torch.randint(0, 6, (2, 14), generator=generator)
        x = torch.randn(6, 4, generator=generator)
        return Data(x=x, edge_index=edges, y=torch.tensor([kind % 3]))

    return Batch.from_data_list([graph(i) for i in range(NUM)])


class GraphNet(nn.Module):
    """Two layers of message passing and the mean over each graph."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        from torch_geometric import nn as gnn

        layers = {
            "GCN": lambda i: gnn.GCNConv(i, 8),
            "GAT": lambda i: gnn.GATv2Conv(i, 4, heads=2),
            "GIN": lambda i: gnn.GINConv(nn.Sequential(nn.Linear(i, 8), nn.ELU(), nn.Linear(8, 8))),
            "SAGE": lambda i: gnn.SAGEConv(i, 8, aggr="max"),
            "Transformer": lambda i: gnn.TransformerConv(i, 8),
        }
        self.first, self.second = layers[kind](4), layers[kind](8)
        self.pool, self.head = gnn.global_mean_pool, nn.Linear(8, 3)

    def forward(self, graph: Any) -> Tensor:
        h = F.elu(self.first(graph.x, graph.edge_index))
        h = self.second(h, graph.edge_index)
        return self.head(self.pool(h, graph.batch))


def of_graph(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch), batch.y)


def next_word(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def x_transformer(kind: str, **options: Any) -> nn.Module:
    import x_transformers

    layers = getattr(x_transformers, kind)(dim=16, depth=2, heads=2, attn_dim_head=8, **options)
    return x_transformers.TransformerWrapper(
        num_tokens=VOCABULARY, max_seq_len=16, attn_layers=layers
    )


def linformer() -> nn.Module:
    from linformer import Linformer

    return nn.Sequential(Linformer(dim=8, seq_len=6, depth=1, heads=2, k=4), Mean(1), _head(8))


def _head(width: int) -> nn.Module:
    return nn.Linear(width, 3)


def adapted(kind: str) -> nn.Module:
    import peft

    from tests.zoo.shrink import tiny

    low_rank = partial(peft.LoraConfig, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    settings = {
        "LoRA": low_rank,
        "DoRA": partial(low_rank, use_dora=True),
        "prefix": partial(peft.PrefixTuningConfig, num_virtual_tokens=3),
    }
    return peft.get_peft_model(
        tiny("LlamaForCausalLM", False), settings[kind](task_type="CAUSAL_LM")
    )


class Flow(nn.Module):
    """A neural differential equation from 0 to 1."""

    def __init__(self, solver: str, **options: Any) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.head, self.solver, self.options = nn.Linear(2, 3), solver, options

    def forward(self, x: Tensor) -> Tensor:
        import torchdiffeq

        solve = getattr(torchdiffeq, self.solver)
        field, times = _Field(self.field), torch.tensor([0.0, 1.0]).to(x)
        return self.head(solve(field, x, times, **self.options)[-1])


class _Field(nn.Module):
    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, _: Tensor, y: Tensor) -> Tensor:
        return self.field(y)


def differential_equation(solver: str, **options: Any) -> nn.Module:
    import torchdiffeq

    assert hasattr(torchdiffeq, solver)
    return Flow(solver, **options)


def gaussian_process(kernel: str) -> nn.Module:
    import gpytorch

    class Process(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            x = torch.linspace(0, 1, NUM)
            super().__init__(x, x, gpytorch.likelihoods.GaussianLikelihood())
            self.mean = gpytorch.means.ConstantMean()
            self.kernel = gpytorch.kernels.ScaleKernel(getattr(gpytorch.kernels, kernel)())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    return Process()


def points_on_a_line(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.linspace(0, 1, NUM)[:, None]
    return x, torch.sin(6 * x[:, 0]) + 0.1 * torch.randn(NUM, generator=generator)


def marginal(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    return -model.likelihood(model.forward(batch[0])).log_prob(batch[1]) / len(batch[1])


def coupling_flow() -> nn.Module:
    import normflows as nf

    blocks = []
    for _ in range(2):
        blocks += [nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 8, 4])), nf.flows.Permute(4)]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(4), blocks)


def spline_flow() -> nn.Module:
    from nflows import distributions, flows, transforms

    spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        4, 8, num_bins=4, tails="linear", tail_bound=3.0
    )
    steps = [transforms.ReversePermutation(4), spline]
    return flows.Flow(transforms.CompositeTransform(steps), distributions.StandardNormal([4]))


def plain_vectors(generator: torch.Generator) -> Tensor:
    return torch.randn(NUM, 4, generator=generator)


class Sparse(nn.Module):
    """Attention with sparse weights."""

    def __init__(self, mapping: str) -> None:
        super().__init__()
        import entmax

        self.mapping = getattr(entmax, mapping)
        self.q, self.k, self.v, self.head = (nn.Linear(4, width) for width in (4, 4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mapping(self.q(x) @ self.k(x).transpose(1, 2), dim=-1)
        return self.head((weights @ self.v(x)).mean(1))


def classifier(package: str) -> nn.Module:
    __import__(package)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def sparse_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    import entmax

    return entmax.entmax15_loss(model(batch[0]), batch[1]).mean()


def metric_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    from pytorch_metric_learning.losses import NTXentLoss

    return NTXentLoss()(model(batch[0]), batch[1] % 2)


def table_transformer() -> nn.Module:
    from rtdl_revisiting_models import FTTransformer

    return FTTransformer(
        n_cont_features=4, cat_cardinalities=[3, 2], d_out=3, n_blocks=1, d_block=8,
        attention_n_heads=2, attention_dropout=0.1, ffn_d_hidden_multiplier=4 / 3,
        ffn_dropout=0.1, residual_dropout=0.0,
    )  # fmt: skip


def table(generator: torch.Generator) -> dict[str, Tensor]:
    kinds = torch.stack([torch.arange(NUM) % 3, torch.arange(NUM) % 2], 1)
    return dict(x=torch.randn(NUM, 4, generator=generator), kinds=kinds, y=torch.arange(NUM) % 3)


def of_table(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"], batch["kinds"]), batch["y"])


class Equivariant(nn.Module):
    """An energy that turns with its inputs, by tensor products of spherical harmonics."""

    def __init__(self) -> None:
        super().__init__()
        from e3nn import o3

        self.harmonics = partial(o3.spherical_harmonics, "0e+1o", normalize=True)
        self.mix = o3.Linear("1x0e+1x1o", "2x0e+1x1o")
        self.join = o3.FullyConnectedTensorProduct("2x0e+1x1o", "0e+1o", "4x0e+2x1o")
        self.head = o3.Linear("4x0e+2x1o", "1x0e")

    def forward(self, x: Tensor) -> Tensor:
        y = self.harmonics(x=x)
        energy = self.head(self.join(self.mix(y), y)).tanh().squeeze(-1)
        return energy * (1 + x.square().sum(-1))


def energy_and_forces(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x = batch[0].clone().requires_grad_()
    energy = model(x)
    (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    return F.mse_loss(energy, batch[1].to(energy)) + force.square().mean()


def siren() -> nn.Module:
    from siren_pytorch import SirenNet

    return SirenNet(dim_in=2, dim_hidden=8, dim_out=1, num_layers=2, w0_initial=3.0)


def fitted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]).squeeze(-1), batch[1].to(batch[0]))


_NODE = dict(method="rk4", options=dict(step_size=0.25))
GUESTS = [
    *(
        Graphs(f"pyg-{kind}", "guest", seeded(partial(GraphNet, kind)), graphs, of_graph)
        for kind in ("GCN", "GAT", "GIN", "SAGE", "Transformer")
    ),
    Graphs("pyg-GCN-counted", "guest", seeded(partial(GraphNet, "GCN")), graphs, of_graph,
           count=lambda batch: batch.num_graphs),
    row("x-transformers-decoder", partial(x_transformer, "Decoder", rotary_pos_emb=True,
        ff_glu=True, use_rmsnorm=True), words, next_word),
    row("x-transformers-flash", partial(x_transformer, "Decoder", attn_flash=True,
        attn_qk_norm=True, ff_relu_squared=True), words, next_word),
    row("linformer", linformer, inputs(6, 8)),
    *(
        row(f"peft-{kind}", partial(adapted, kind), continued, loss_of_output)
        for kind in ("LoRA", "DoRA", "prefix")
    ),
    row("neural-ode-rk4", partial(differential_equation, "odeint", **_NODE), inputs(2)),
    row("neural-ode-dopri5", partial(differential_equation, "odeint", rtol=1e-6, atol=1e-8),
        inputs(2)),
    row("neural-ode-adjoint", partial(differential_equation, "odeint_adjoint", **_NODE), inputs(2)),
    row("gpytorch-RBF", partial(gaussian_process, "RBFKernel"), points_on_a_line, marginal,
        indivisible=True),
    row("gpytorch-Matern", partial(gaussian_process, "MaternKernel"), points_on_a_line, marginal,
        indivisible=True),
    row("normflows-coupling", coupling_flow, plain_vectors, lambda m, b: m.forward_kld(b)),
    row("nflows-spline", spline_flow, plain_vectors, lambda m, b: -m.log_prob(b).mean()),
    row("entmax-attention", partial(Sparse, "entmax15"), inputs(5, 4)),
    row("sparsemax-attention", partial(Sparse, "sparsemax"), inputs(5, 4)),
    row("entmax-loss", partial(classifier, "entmax"), inputs(4), sparse_loss),
    row("contrastive", partial(classifier, "pytorch_metric_learning"), inputs(4), metric_loss,
        indivisible=True),
    row("FT-Transformer", table_transformer, table, of_table),
    row("e3nn-forces", Equivariant, inputs(3), energy_and_forces),
    row("siren", siren, inputs(2), fitted),
]  # fmt: skip
