"""Language models of transformers: encoders, decoders, state spaces, mixtures, translators."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.zoo.shrink import VOCABULARY, tiny
from tests.zoo.specimen import NUM, Specimen

LENGTH, FIRST_WORD = 8, 3  # 0, 1 and 2 pad, begin and end


def words(generator: torch.Generator, length: int = LENGTH) -> Tensor:
    return torch.randint(FIRST_WORD, VOCABULARY, (NUM, length), generator=generator)


def continued(generator: torch.Generator, length: int = LENGTH) -> dict[str, Tensor]:
    """For causal language models: the labels are the words, which the model shifts itself."""
    inputs = words(generator, length)
    return dict(input_ids=inputs, labels=inputs.clone())


def padded(generator: torch.Generator) -> dict[str, Tensor]:
    """Sequences of unequal length: padding is masked, and its labels are ignored."""
    inputs, mask = words(generator), torch.ones(NUM, LENGTH, dtype=torch.long)
    mask[1, 5:], mask[4, 3:] = 0, 0
    return dict(
        input_ids=inputs * mask,
        attention_mask=mask,
        labels=torch.where(mask == 1, inputs, -100),
    )


def predicted_words(batch: dict[str, Tensor]) -> Tensor:
    return (batch["labels"][:, 1:] != -100).sum()


def classes() -> Tensor:
    return torch.arange(NUM) % 3


def classified(generator: torch.Generator, length: int = LENGTH) -> dict[str, Tensor]:
    inputs, mask = words(generator, length), torch.ones(NUM, length, dtype=torch.long)
    mask[0, -2:] = 0
    return dict(input_ids=inputs * mask, attention_mask=mask, labels=classes())


def ended(generator: torch.Generator) -> dict[str, Tensor]:
    """For classifiers that read the state of the end word: one in every sequence."""
    inputs = words(generator)
    inputs[:, -1] = 2
    return dict(input_ids=inputs, labels=classes())


def masked(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(input_ids=words(generator), labels=words(generator))


def translated(generator: torch.Generator, length: int = 5) -> dict[str, Tensor]:
    return dict(
        input_ids=words(generator),
        attention_mask=torch.ones(NUM, LENGTH, dtype=torch.long),
        labels=words(generator, length),
    )


def of_length(batch: Callable[..., Any], length: int) -> Callable[[torch.Generator], Any]:
    return partial(batch, length=length)


# What the table of sizes does not fit, and why.
_LATENT = dict(num_key_value_heads=2)  # latent attention has no groups of heads
_LINEAR = dict(layer_types=["linear_attention", "full_attention"])  # one of each kind
_T5 = dict(decoder_start_token_id=0, eos_token_id=1)  # begins with padding
_MAMBA = dict(mamba_d_ssm=32, mamba_d_head=8)  # its width is heads times head
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": dict(attn_layer_indices=[1]),
    "BigBirdForSequenceClassification": dict(  # sparse only beyond 28 words
        block_size=4, num_random_blocks=1, sep_token_id=2
    ),
    "CTRLLMHeadModel": dict(dff=24),  # its own name for the inner width
    "CanineForSequenceClassification": dict(num_hash_buckets=16),  # 16384 otherwise
    "CodeGenForCausalLM": dict(n_head=4),  # splits its heads over four chips
    "DebertaV2ForSequenceClassification": dict(
        relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"]
    ),
    "DeepseekV3ForCausalLM": _LATENT,
    "DiffLlamaForCausalLM": _LATENT,  # its two attentions share the heads out
    "EsmForSequenceClassification": dict(
        position_embedding_type="rotary", token_dropout=False, mask_token_id=3
    ),
    "FSMTForConditionalGeneration": dict(langs=["a", "b"], src_vocab_size=50, tgt_vocab_size=50),
    "FalconForCausalLM": dict(alibi=True),
    "FalconH1ForCausalLM": _MAMBA,
    "FunnelForSequenceClassification": dict(block_sizes=[1, 1], num_decoder_layers=1),
    "GPTNeoForCausalLM": dict(attention_types=[[["global", "local"], 1]], window_size=4),
    "JambaForCausalLM": dict(
        attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1
    ),
    "LEDForConditionalGeneration": dict(
        attention_window=4, max_encoder_position_embeddings=32, max_decoder_position_embeddings=32
    ),
    "Lfm2ForCausalLM": dict(layer_types=["conv", "full_attention"]),
    "LongT5ForConditionalGeneration": dict(_T5, local_radius=3),
    "LongformerForSequenceClassification": dict(attention_window=4),
    "MT5ForConditionalGeneration": _T5,
    "Mamba2ForCausalLM": dict(num_heads=4, n_groups=1, expand=2),
    "MobileBertForSequenceClassification": dict(
        true_hidden_size=16, intra_bottleneck_size=16, num_feedforward_networks=2
    ),
    "ModernBertForSequenceClassification": dict(global_attn_every_n_layers=2, local_attention=4),
    "Qwen3NextForCausalLM": _LINEAR,
    "Qwen3_5ForCausalLM": _LINEAR,
    "RecurrentGemmaForCausalLM": dict(
        lru_width=16, attention_window_size=8, block_types=["recurrent", "attention"]
    ),
    "ReformerModelWithLMHead": dict(
        attn_layers=["local", "lsh"],
        attention_head_size=8,
        local_attn_chunk_length=4,
        lsh_attn_chunk_length=4,
        num_buckets=2,
        axial_pos_shape=[4, 4],
        axial_pos_embds_dim=[8, 8],
        max_position_embeddings=16,
        is_decoder=True,
        use_cache=False,
    ),
    "RemBertForCausalLM": dict(input_embedding_size=16, output_embedding_size=16),
    "SwitchTransformersForConditionalGeneration": dict(
        _T5, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, expert_capacity=16
    ),
    "T5ForConditionalGeneration": _T5,
    "UMT5ForConditionalGeneration": _T5,
    "XLMWithLMHeadModel": dict(causal=True, n_langs=1),
    "XmodForSequenceClassification": dict(languages=["en"], default_language="en"),
    "Zamba2ForCausalLM": dict(
        layers_block_type=["mamba", "hybrid"],
        num_key_value_heads=2,
        n_mamba_heads=4,
        mamba_headdim=8,
        mamba_ngroups=1,
        num_mem_blocks=1,
        adapter_rank=4,
    ),
    "xLSTMForCausalLM": dict(  # its cache rounds the heads up to multiples of 64
        use_cache=False, chunk_size=8, ffn_round_up_to_multiple_of=8
    ),
}


def model(
    name: str, family: str, batch: Callable[[torch.Generator], Any], label: str = "", **special: Any
) -> Specimen:
    """A row for a class of transformers; `label` tells two rows of one class apart."""
    exceptions = {**EXCEPTIONS.get(name, {}), **special}
    count = predicted_words if batch is padded else None
    return Specimen(
        f"{name}-{label}" if label else name,
        family,
        partial(tiny, name, **exceptions),
        batch,
        count=count,
    )


ENCODERS = """Albert Bert Camembert Canine ConvBert DebertaV2 DistilBert Electra Ernie Esm EuroBert
    FNet Flaubert Funnel IBert Longformer MPNet MegatronBert MobileBert ModernBert NomicBert
    RoFormer Roberta RobertaPreLayerNorm SqueezeBert XLMRobertaXL XLNet Xmod Yoso"""
DECODERS = """ApertusForCausalLM ArceeForCausalLM BioGptForCausalLM BitNetForCausalLM
    BloomForCausalLM CTRLLMHeadModel CodeGenForCausalLM CohereForCausalLM DiffLlamaForCausalLM
    DogeForCausalLM Exaone4ForCausalLM FalconForCausalLM GPT2LMHeadModel GPTBigCodeForCausalLM
    GPTJForCausalLM GPTNeoForCausalLM GPTNeoXForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM
    GemmaForCausalLM Glm4ForCausalLM GraniteForCausalLM HeliumForCausalLM LlamaForCausalLM
    MistralForCausalLM ModernBertDecoderForCausalLM MptForCausalLM NemotronForCausalLM
    OPTForCausalLM Olmo2ForCausalLM OpenAIGPTLMHeadModel PersimmonForCausalLM Phi3ForCausalLM
    PhiForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM RemBertForCausalLM SmolLM3ForCausalLM
    StableLmForCausalLM Starcoder2ForCausalLM XGLMForCausalLM XLMWithLMHeadModel"""
EXPERTS = """DeepseekV3ForCausalLM Ernie4_5_MoeForCausalLM Glm4MoeForCausalLM GptOssForCausalLM
    GraniteMoeForCausalLM Llama4ForCausalLM MiniMaxForCausalLM MixtralForCausalLM
    OlmoeForCausalLM PhimoeForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM"""
RECURRENT = """BambaForCausalLM FalconH1ForCausalLM FalconMambaForCausalLM JambaForCausalLM
    Lfm2ForCausalLM Mamba2ForCausalLM MambaForCausalLM Qwen3NextForCausalLM Qwen3_5ForCausalLM
    RecurrentGemmaForCausalLM RwkvForCausalLM Zamba2ForCausalLM"""
TRANSLATORS = """BartForConditionalGeneration BigBirdPegasusForConditionalGeneration
    BlenderbotForConditionalGeneration LEDForConditionalGeneration
    LongT5ForConditionalGeneration M2M100ForConditionalGeneration MBartForConditionalGeneration
    MT5ForConditionalGeneration MarianMTModel PLBartForConditionalGeneration
    PegasusForConditionalGeneration ProphetNetForConditionalGeneration
    SwitchTransformersForConditionalGeneration T5ForConditionalGeneration
    UMT5ForConditionalGeneration"""
_ROPE = dict(rope_type="dynamic", factor=4.0, rope_theta=1e4)  # recomputed beyond 4 words

TEXT = [
    *(model(f"{n}ForSequenceClassification", "encoder", classified) for n in ENCODERS.split()),
    model("BigBirdForSequenceClassification", "encoder", of_length(classified, 32)),
    model("NystromformerForMaskedLM", "encoder", masked, num_landmarks=4, segment_means_seq_len=8),
    model("DebertaForMaskedLM", "encoder", masked),
    model("BartForSequenceClassification", "encoder", ended),
    *(model(n, "decoder", continued) for n in DECODERS.split()),
    model("LlamaForCausalLM", "decoder", padded, "padded"),
    model("GPT2LMHeadModel", "decoder", padded, "padded"),
    model(
        "LlamaForCausalLM",
        "decoder",
        continued,
        "dynamic-rope",
        max_position_embeddings=4,
        rope_parameters=_ROPE,
    ),
    *(model(n, "experts", continued) for n in EXPERTS.split()),
    model("MixtralForCausalLM", "experts", continued, "balanced", output_router_logits=True),
    *(model(n, "recurrent", continued) for n in RECURRENT.split()),
    model("RwkvForCausalLM", "recurrent", continued, "uncached", use_cache=False),
    model("xLSTMForCausalLM", "recurrent", of_length(continued, 16)),
    model("ReformerModelWithLMHead", "recurrent", of_length(continued, 16)),
    *(model(n, "translator", translated) for n in TRANSLATORS.split()),
    # without decoder inputs it reads the source as its target
    model("FSMTForConditionalGeneration", "translator", of_length(translated, LENGTH)),
]
