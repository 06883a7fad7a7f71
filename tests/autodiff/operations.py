"""Operations of torch that networks use, each a function of h (10, 6), in float64.

All are smooth where they are evaluated, so that differences of gradients judge them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Function = Callable[[Tensor], Tensor]


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


R, IMAGE, KERNEL = randn(10, 6), randn(10, 1, 5, 5, seed=1), randn(4, 2, 2, 2, seed=2)
GROUPS = torch.arange(10) % 4
PLACES = GROUPS[:, None].expand(10, 6)
LENGTHS = torch.tensor([3, 4, 3])
BAG = torch.tensor([[0, 1, 2], [3, 3, 9]])
EYE = torch.eye(3, dtype=torch.float64)


def pairs(h: Tensor) -> tuple[Tensor, Tensor]:
    return h[:, :3], h[:, 3:]


def outer(h: Tensor) -> Tensor:
    """(10, 3, 3), far from singular."""
    a, b = pairs(h)
    return a[:, :, None] * b[:, None, :] + 2 * EYE


def definite(h: Tensor) -> Tensor:
    a, _ = pairs(h)
    return a[:, :, None] * a[:, None, :] + EYE


def distinct(h: Tensor) -> Tensor:
    """Symmetric with eigenvalues apart."""
    return outer(h) + outer(h).mT + torch.diag(torch.arange(3.0)).double()


def images(h: Tensor) -> Tensor:
    return h.view(-1, 1, 2, 3)


def blocks(h: Tensor) -> Tensor:
    return h.view(-1, 2, 3)


def heads(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (images(h),) * 3


def shifted(f: Function) -> Function:
    return lambda h: f(h + 3)


def shrunk(f: Function) -> Function:
    return lambda h: f(0.9 * h)


def squared(f: Function) -> Function:
    return lambda h: f(3 * h) ** 2


def written(h: Tensor) -> Tensor:
    z = torch.zeros_like(h)
    z[:, 2] = h[:, 0] ** 2
    z[1:] += h[:-1]
    return z


ELEMENTWISE: dict[str, Function] = {
    name: getattr(torch, name)
    for name in ("exp", "exp2", "sin", "tan", "atan", "sinh", "cosh", "tanh", "asinh", "erf",
                 "erfc", "sigmoid", "sinc")
} | {
    name: getattr(F, name)
    for name in ("elu", "selu", "gelu", "silu", "mish", "softplus", "softsign", "logsigmoid",
                 "tanhshrink", "celu")
} | {
    name: getattr(torch.special, name) for name in ("i0", "i0e", "i1", "i1e", "erfcx", "log_ndtr")
} | {
    f"{name}, positive": shifted(getattr(torch, name))
    for name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "lgamma",
                 "digamma", "acosh", "square")
} | {
    f"{name}, below one": shrunk(getattr(torch, name))
    for name in ("asin", "acos", "atanh", "erfinv")
} | {
    f"{name}, squared": squared(getattr(F, name))
    for name in ("relu", "relu6", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid",
                 "hardshrink", "softshrink")
} | {
    "polygamma": lambda h: torch.polygamma(1, h + 3),
    "zeta": lambda h: torch.special.zeta(torch.full_like(h, 3.0), h + 3),
    "xlogy": lambda h: torch.xlogy(h + 2, h + 2),
    "entr": lambda h: torch.special.entr(h + 2),
    "ndtri": lambda h: torch.special.ndtri(h.sigmoid()),
    "igamma": lambda h: torch.igamma(torch.full_like(h, 2.0), h + 2),
    "pow": lambda h: (h + 2) ** (h + 1),
    "hypot": lambda h: torch.hypot(h[:, :3] + 2, h[:, 3:]),
    "atan2": lambda h: torch.atan2(h[:, :3] + 2, h[:, 3:]),
    "logaddexp": lambda h: torch.logaddexp(*pairs(h)),
    "maximum": lambda h: torch.maximum(*pairs(h)) ** 2,
    "lerp": lambda h: torch.lerp(h, R, h.sigmoid()),
    "where": lambda h: torch.where(R > 0, h**2, h**3),
    "clamp": lambda h: h.clamp(-0.5, 0.5) ** 2,
    "gelu, tanh": lambda h: F.gelu(h, approximate="tanh"),
    "glu": F.glu,
    "prelu": lambda h: F.prelu(R, h[0, :1]) ** 2,
    "checkpoint": lambda h: checkpoint(torch.sin, h, use_reentrant=False) * h,
    "vmap": torch.func.vmap(lambda row: row.sin() * row.norm()),
}  # fmt: skip

REDUCTIONS: dict[str, Function] = {
    "softmax": lambda h: h.softmax(1),
    "log_softmax": lambda h: h.log_softmax(1),
    "logsumexp": lambda h: h.logsumexp(1, keepdim=True),
    "logcumsumexp": lambda h: h.logcumsumexp(1),
    "cumsum": lambda h: h.cumsum(1) ** 2,
    "cumprod": lambda h: (h + 2).cumprod(1),
    "prod": lambda h: h.prod(1, keepdim=True),
    "prod with a zero": lambda h: (h * (torch.arange(6) != 2)).prod(1, keepdim=True) + h,
    "amax": lambda h: h.amax(1, keepdim=True) ** 2,
    "cummax": lambda h: h.cummax(1)[0] ** 2,
    "median": lambda h: h.median(1)[0][:, None] ** 2,
    "quantile": lambda h: h.quantile(0.3, 1)[:, None] ** 2,
    "sort": lambda h: h.sort(1)[0] * torch.arange(6) * h,
    "topk": lambda h: h.topk(2, 1)[0] ** 2,
    "std": lambda h: h.std(1, keepdim=True),
    "var": lambda h: h.var(0, keepdim=True),
    "norm": lambda h: h.norm(dim=1, keepdim=True),
    "norm, p=3": lambda h: h.norm(p=3, dim=1, keepdim=True),
    "renorm": lambda h: torch.renorm(h, 2, 0, 0.5),
    "normalize": lambda h: F.normalize(h, dim=1),
    "cosine_similarity": lambda h: F.cosine_similarity(*pairs(h))[:, None],
    "pairwise_distance": lambda h: F.pairwise_distance(*pairs(h))[:, None],
    "cdist": lambda h: torch.cdist(h, R),
    "cdist, by products": lambda h: torch.cdist(h, R, compute_mode="use_mm_for_euclid_dist"),
    "pdist": lambda h: F.pdist(h)[:, None],
    "cov": lambda h: torch.cov(h.T),
    "corrcoef": lambda h: torch.corrcoef(h.T),
}  # fmt: skip

LINEAR_ALGEBRA: dict[str, Function] = {
    "einsum": lambda h: torch.einsum("ij,ik,il->jkl", h, h, R),
    "bilinear": lambda h: F.bilinear(*pairs(h), randn(2, 3, 3)),
    "cross": lambda h: torch.linalg.cross(*pairs(h)),
    "kron": lambda h: torch.kron(h[0], h[1])[None],
    "inv": lambda h: torch.linalg.inv(outer(h)).flatten(1),
    "det": lambda h: torch.linalg.det(outer(h))[:, None],
    "slogdet": lambda h: torch.linalg.slogdet(outer(h))[1][:, None],
    "solve": lambda h: torch.linalg.solve(outer(h), h[:, :3]),
    "solve_triangular": lambda h: torch.linalg.solve_triangular(
        outer(h).tril(), h[:, :3, None], upper=False
    ),
    "cholesky": lambda h: torch.linalg.cholesky(definite(h)).flatten(1),
    "cholesky_solve": lambda h: torch.cholesky_solve(
        h[:, 3:, None], torch.linalg.cholesky(definite(h))
    ),
    "cholesky_inverse": lambda h: torch.cholesky_inverse(torch.linalg.cholesky(definite(h))),
    "lu_solve": lambda h: torch.linalg.lu_solve(*torch.linalg.lu_factor(outer(h)), h[:, 3:, None]),
    "qr": lambda h: torch.linalg.qr(h.view(-1, 3, 2))[1].flatten(1),
    "svdvals": lambda h: torch.linalg.svdvals(blocks(h)),
    "eigvalsh": lambda h: torch.linalg.eigvalsh(distinct(h)),
    "eigh": lambda h: torch.linalg.eigh(distinct(h))[1].square().flatten(1),
    "pinv": lambda h: torch.linalg.pinv(blocks(h)).flatten(1),
    "lstsq": lambda h: torch.linalg.lstsq(h.view(-1, 3, 2), h[:, :3, None])[0].flatten(1),
    "matrix_exp": lambda h: torch.matrix_exp(outer(h) / 4).flatten(1),
    "matrix_power": lambda h: torch.linalg.matrix_power(outer(h), -2).flatten(1),
    "householder_product": lambda h: torch.linalg.householder_product(
        h.view(-1, 3, 2), h[:, :2].sigmoid()
    ),
    "nuclear norm": lambda h: torch.linalg.matrix_norm(blocks(h), "nuc")[:, None],
    "fft": lambda h: torch.fft.fft(h).imag ** 2,
    "rfft": lambda h: torch.fft.rfft(h).abs(),
    "stft": lambda h: torch.stft(
        h.flatten(), 8, window=torch.hann_window(8, dtype=h.dtype), return_complex=True
    ).abs(),
    "complex": lambda h: torch.view_as_real(torch.exp(torch.complex(*pairs(h)))).flatten(1),
    "polar": lambda h: torch.view_as_real(torch.polar(h[:, :3] + 2, h[:, 3:])).flatten(1),
    "angle": lambda h: torch.complex(h[:, :3] + 2, h[:, 3:]).angle(),
}  # fmt: skip

LAYERS: dict[str, Function] = {
    "conv1d": lambda h: F.conv1d(h[:, None], KERNEL[:, :1, 0]) ** 2,
    "conv2d": lambda h: F.conv2d(images(h).expand(-1, 2, -1, -1), KERNEL) ** 2,
    "conv2d by its weight": lambda h: F.conv2d(IMAGE, h[:4, :4].reshape(4, 1, 2, 2)) ** 2,
    "conv same": lambda h: F.conv1d(h[:, None], R[:4, None, :3], padding="same") ** 2,
    "conv_transpose2d": lambda h: F.conv_transpose2d(images(h), KERNEL.view(1, 8, 2, 2)) ** 2,
    "layer_norm": lambda h: F.layer_norm(h, (6,), h[0], h[1]),
    "group_norm": lambda h: F.group_norm(h, 2, h[0], h[1]),
    "rms_norm": lambda h: F.rms_norm(h, (6,), h[0]),
    "instance_norm": lambda h: F.instance_norm(blocks(h), weight=h[0, :2], bias=h[1, :2]),
    "batch_norm": lambda h: F.batch_norm(h, None, None, h[0], h[1], training=True),
    "batch_norm, fixed": lambda h: F.batch_norm(h, R[0], R[1] ** 2, h[0], h[1]),
    "local_response_norm": lambda h: F.local_response_norm(h[:, :, None], 3),
    "weight_norm": lambda h: torch._weight_norm(h, h[:, :1] ** 2 + 1, 0) @ R.T,
    "attention": lambda h: F.scaled_dot_product_attention(*heads(h)),
    "attention, causal": lambda h: F.scaled_dot_product_attention(*heads(h), is_causal=True),
    "attention, masked": lambda h: F.scaled_dot_product_attention(*heads(h), attn_mask=R[:2, :2]),
    "avg_pool": lambda h: F.avg_pool2d(images(h), 2, 1) ** 2,
    "max_pool": lambda h: F.max_pool2d(images(h), 2, 1) ** 2,
    "adaptive_avg_pool": lambda h: F.adaptive_avg_pool1d(h[:, None], 4) ** 2,
    "adaptive_max_pool": lambda h: F.adaptive_max_pool1d(h[:, None], 2) ** 2,
    "lp_pool": lambda h: F.lp_pool1d(h[:, None] + 3, 3.0, 2),
    "unfold": lambda h: F.unfold(images(h), 2) ** 2,
    "fold": lambda h: F.fold(h[:, :, None], (3, 2), (3, 2)) ** 2,
    "pad, reflected": lambda h: F.pad(h[:, None], (2, 2), "reflect") ** 2,
    "pad, circular": lambda h: F.pad(h[:, None], (2, 2), "circular") ** 2,
    "pixel_shuffle": lambda h: F.pixel_shuffle(h[:, :4].view(-1, 4, 1, 1), 2) ** 2,
    "grid_sample": lambda h: F.grid_sample(IMAGE, 0.9 * h.view(-1, 1, 3, 2), align_corners=True),
    "embedding": lambda h: F.embedding(BAG, h) ** 2,
    "embedding, scaled": lambda h: F.embedding(BAG, h, scale_grad_by_freq=True) ** 2,
    "embedding_bag": lambda h: F.embedding_bag(BAG, h, mode="sum") ** 2,
} | {
    f"interpolate, {mode}": lambda h, mode=mode: F.interpolate(
        images(h), scale_factor=2, mode=mode
    ) ** 2
    for mode in ("nearest", "bilinear", "bicubic", "area")
}  # fmt: skip

INDEXING: dict[str, Function] = {
    "gather": lambda h: h.gather(1, PLACES) ** 2,
    "take_along_dim": lambda h: torch.take_along_dim(h, h.argsort(1), 1) ** 2 * torch.arange(6),
    "scatter_add": lambda h: torch.zeros_like(h).scatter_add(0, PLACES, h) ** 2,
    "index_add": lambda h: torch.zeros_like(h).index_add(0, GROUPS, h) ** 3,
    "index_put": lambda h: torch.zeros_like(h).index_put((GROUPS,), h, accumulate=True) ** 2,
    "masked_fill": lambda h: h.masked_fill(R > 0, 0.0) ** 2,
    "masked_scatter": lambda h: h.masked_scatter(R > 0, h.flatten()) ** 3,
    "written in place": lambda h: written(h) ** 2,
    "roll": lambda h: h.roll(1, 1) * h,
    "diff": lambda h: h.diff(dim=1) ** 2,
    "trapezoid": lambda h: torch.trapezoid(h)[:, None] ** 2,
    "as_strided": lambda h: h.contiguous().as_strided((5, 4), (3, 2)) ** 2,
    "segment_reduce": lambda h: torch.segment_reduce(h, "mean", lengths=LENGTHS) ** 2,
    "sparse values": lambda h: torch.sparse_coo_tensor(
        BAG.new_tensor([[0, 1, 2], [1, 0, 2]]), h[0, :3], (3, 6), check_invariants=False
    ).to_dense() ** 2,
} | {
    f"scatter_reduce, {reduce}": lambda h, reduce=reduce: (h[:4] / 2 + 1).scatter_reduce(
        0, PLACES, h / 2 + 1, reduce
    )
    for reduce in ("sum", "mean", "amax", "prod")
} | {
    f"index_reduce, {reduce}": lambda h, reduce=reduce: (h[:4] / 2 + 1).index_reduce(
        0, GROUPS, h / 2 + 1, reduce
    )
    for reduce in ("mean", "amax", "prod")
}  # fmt: skip

LOSSES: dict[str, Function] = {
    "cross_entropy": lambda h: F.cross_entropy(h, GROUPS),
    "cross_entropy, weighted": lambda h: F.cross_entropy(
        h, GROUPS, weight=R[0].abs(), label_smoothing=0.1
    ),
    "cross_entropy, soft": lambda h: F.cross_entropy(h, R.softmax(1)),
    "mse_loss": lambda h: F.mse_loss(h, R),
    "huber_loss": lambda h: F.huber_loss(h, R, delta=0.7),
    "smooth_l1_loss": lambda h: F.smooth_l1_loss(h, R),
    "binary_cross_entropy": lambda h: F.binary_cross_entropy(h.sigmoid(), R.sigmoid()),
    "binary_cross_entropy, both": lambda h: F.binary_cross_entropy(h.sigmoid(), (h * h).sigmoid()),
    "binary_cross_entropy_with_logits": lambda h: F.binary_cross_entropy_with_logits(
        h, R.sigmoid(), pos_weight=R[0].abs()
    ),
    "kl_div": lambda h: F.kl_div(h.log_softmax(1), (h * h).softmax(1), reduction="batchmean"),
    "poisson_nll_loss": lambda h: F.poisson_nll_loss(h, R.abs()),
    "gaussian_nll_loss": lambda h: F.gaussian_nll_loss(h[:, :3], R[:, :3], h[:, 3:].exp()),
    "soft_margin_loss": lambda h: F.soft_margin_loss(h, R.sign()),
    "multi_margin_loss": lambda h: F.multi_margin_loss(h, GROUPS, p=2),
    "multilabel_soft_margin_loss": lambda h: F.multilabel_soft_margin_loss(h, (R > 0).double()),
    "cosine_embedding_loss": lambda h: F.cosine_embedding_loss(h, R, R[:, 0].sign()),
    "triplet_margin_loss": lambda h: F.triplet_margin_loss(h, R, R.roll(1, 0)),
    "ctc_loss": lambda h: F.ctc_loss(
        h[:, None].log_softmax(2), torch.tensor([[1, 2, 3]]), torch.tensor([10]), torch.tensor([3])
    ),
}  # fmt: skip

OPERATIONS = ELEMENTWISE | REDUCTIONS | LINEAR_ALGEBRA | LAYERS | INDEXING | LOSSES


class Through(nn.Module):
    """loss(function(tanh(x w))): an operation between a layer and a loss that bends."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.w, self.function = nn.Parameter(0.7 * randn(5, 6, seed=3)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(torch.tanh(x @ self.w))
