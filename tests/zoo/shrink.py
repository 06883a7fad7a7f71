"""Tiny configurations of transformers: one table of sizes for every configuration class.

The field's configurations name the same quantities in a few dozen ways; whatever a class knows is
set, sub-configurations included, and only what the table does not fit is a model's exception.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

VOCABULARY, WIDTH = 50, 16


def _all(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


SIZES = {
    **_all(VOCABULARY, "vocab_size"),
    **dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1),
    **_all(WIDTH, "hidden_size d_model dim n_embd emb_dim embedding_size embed_dim"),
    **_all(WIDTH, "word_embed_proj_dim"),
    **_all(24, "intermediate_size d_ff d_inner ffn_dim n_inner hidden_dim mlp_dim"),
    **_all(24, "encoder_ffn_dim decoder_ffn_dim feed_forward_size"),
    **_all(2, "num_hidden_layers num_layers n_layer n_layers"),
    **_all(1, "encoder_layers decoder_layers num_encoder_layers num_decoder_layers"),
    **_all(2, "num_attention_heads n_head n_heads num_heads"),
    **_all(2, "encoder_attention_heads decoder_attention_heads"),
    **_all(2, "num_encoder_attention_heads num_decoder_attention_heads"),
    **_all(1, "num_key_value_heads"),
    **_all(8, "head_dim d_head d_kv"),
    **_all(32, "max_position_embeddings n_positions"),
    **dict(type_vocab_size=2, sliding_window=4, rotary_dim=4),
    # mixtures of experts and their latent attention
    **_all(4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    **_all(2, "num_experts_per_tok moe_k moe_topk"),
    **_all(16, "moe_intermediate_size shared_expert_intermediate_size"),
    **_all(1, "n_shared_experts n_group topk_group first_k_dense_replace"),
    **dict(kv_lora_rank=8, q_lora_rank=8, v_head_dim=8, qk_rope_head_dim=4, qk_nope_head_dim=4),
    # state spaces and linear attention
    **_all(4, "state_size mamba_d_state mamba_n_heads mamba_dt_rank time_step_rank"),
    **_all(4, "chunk_size mamba_chunk_size"),
    **_all(3, "conv_kernel mamba_d_conv linear_conv_kernel_dim"),
    **dict(mamba_expand=2, mamba_d_head=8, mamba_n_groups=1),
    **dict(linear_num_value_heads=2, linear_num_key_heads=1),
    **_all(8, "linear_key_head_dim linear_value_head_dim"),
    # images and heads
    **dict(image_size=16, patch_size=8, num_labels=3, projection_dim=8),
}


def small(config: type, **exceptions: Any) -> Any:
    """A configuration with every size that the class knows set from the table.

    A dict goes on to the sub-configuration of that name, of the class that its "model_type" names
    where the model takes any; None leaves a size of the table at the class's own default.
    """
    known = {field.name for field in dataclasses.fields(config)} | {"num_labels"}
    sizes = {name: size for name, size in SIZES.items() if name in known}
    for name, part in (getattr(config, "sub_configs", None) or {}).items():
        inner = dict(exceptions.pop(name, None) or {})
        part = _named(inner.pop("model_type")) if "model_type" in inner else part
        if dataclasses.is_dataclass(part):
            sizes[name] = small(part, **inner)
    sizes |= exceptions
    return config(**{n: size for n, size in sizes.items() if size is not None or n not in SIZES})


def _named(model_type: str) -> type:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def tiny(name: str, eager: bool, /, **exceptions: Any) -> nn.Module:
    """The model class of that name in a tiny configuration, with the weights of seed 0."""
    import transformers

    transformers.logging.set_verbosity_error()
    kind = getattr(transformers, name)
    config = small(kind.config_class, **exceptions)
    if eager:
        config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = kind(config)
    if eager and getattr(model.config, "_experts_implementation", None):
        model.set_experts_implementation("eager")
    return model
