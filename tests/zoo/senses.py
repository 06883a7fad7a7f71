"""Models of transformers that see, hear, read pictures or forecast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.shrink import tiny
from tests.zoo.specimen import NUM, Specimen, loss_of_output
from tests.zoo.text import classes, words

Batch = Callable[[torch.Generator], Any]


def pictures(size: int = 16) -> Batch:
    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        return dict(pixel_values=_pixels(generator, size), labels=classes())

    return batch


def _pixels(generator: torch.Generator, size: int = 16) -> Tensor:
    return torch.randn(NUM, 3, size, size, generator=generator)


def unlabelled(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(pixel_values=_pixels(generator))


def patches_hidden(generator: torch.Generator) -> dict[str, Tensor]:
    hidden = torch.tensor([True, False, True, False]).expand(NUM, 4).clone()
    return dict(pixel_values=_pixels(generator), bool_masked_pos=hidden)


def segmented(size: int) -> Batch:
    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        labels = torch.randint(0, 3, (NUM, size, size), generator=generator)
        return dict(pixel_values=_pixels(generator, size), labels=labels)

    return batch


def boxed(size: int) -> Batch:
    """Two objects a picture, so that pictures and boxes count alike."""

    def batch(generator: torch.Generator) -> dict[str, Any]:
        objects = [
            {
                "class_labels": torch.randint(0, 3, (2,), generator=generator),
                "boxes": 0.2 + 0.4 * torch.rand(2, 4, generator=generator),
            }
            for _ in range(NUM)
        ]
        return dict(pixel_values=_pixels(generator, size), labels=objects)

    return batch


def spoken(length: int = 200) -> Batch:
    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        return dict(
            input_values=torch.randn(NUM, length, generator=generator),
            labels=torch.randint(1, 12, (NUM, 4), generator=generator),
        )

    return batch


def heard(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(input_values=torch.randn(NUM, 100, generator=generator), labels=classes())


def spectrogram(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(input_values=torch.randn(NUM, 16, 8, generator=generator), labels=classes())


def transcribed(generator: torch.Generator) -> dict[str, Tensor]:
    features = torch.randn(NUM, 8, 20, generator=generator)
    return dict(input_features=features, labels=words(generator, 5))


def dictated(generator: torch.Generator) -> dict[str, Tensor]:
    values = torch.randn(NUM, 200, generator=generator)
    return dict(input_values=values, labels=words(generator, 5))


def captioned(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(
        input_ids=words(generator, 6),
        attention_mask=torch.ones(NUM, 6, dtype=torch.long),
        pixel_values=_pixels(generator),
    )


def described(generator: torch.Generator) -> dict[str, Tensor]:
    batch = captioned(generator)
    return dict(batch, labels=batch["input_ids"].clone())


def asked(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(
        captioned(generator),
        pixel_mask=torch.ones(NUM, 16, 16, dtype=torch.long),
        labels=torch.rand(NUM, 3, generator=generator),
    )


def conversed(generator: torch.Generator) -> dict[str, Tensor]:
    """Four places for the picture, then words; only the words are predicted."""
    places, said = torch.full((NUM, 4), 3), words(generator, 5).clamp(min=4)
    return dict(
        input_ids=torch.cat([places, said], 1),
        attention_mask=torch.ones(NUM, 9, dtype=torch.long),
        pixel_values=_pixels(generator),
        labels=torch.cat([torch.full_like(places, -100), said], 1),
    )


def laid_out(generator: torch.Generator) -> dict[str, Tensor]:
    boxes = torch.tensor([1, 2, 10, 20]).expand(NUM, 6, 4).clone()
    return dict(input_ids=words(generator, 6), bbox=boxes, labels=classes())


def observed(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(
        past_values=torch.randn(NUM, 16, 2, generator=generator),
        future_values=torch.randn(NUM, 3, 2, generator=generator),
    )


def forecast(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(
        past_values=torch.randn(NUM, 10, generator=generator),
        past_time_features=torch.randn(NUM, 10, 2, generator=generator),
        past_observed_mask=torch.ones(NUM, 10),
        future_values=torch.randn(NUM, 3, generator=generator),
        future_time_features=torch.randn(NUM, 3, 2, generator=generator),
    )


def played(generator: torch.Generator) -> dict[str, Tensor]:
    return dict(
        states=torch.randn(NUM, 5, 3, generator=generator),
        actions=torch.randn(NUM, 5, 2, generator=generator),
        rewards=torch.randn(NUM, 5, 1, generator=generator),
        returns_to_go=torch.randn(NUM, 5, 1, generator=generator),
        timesteps=torch.arange(5).expand(NUM, 5).clone(),
        attention_mask=torch.ones(NUM, 5),
    )


def imitated(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(**batch).action_preds, batch["actions"])


def model(
    name: str,
    family: str,
    batch: Batch,
    ask: Callable[[nn.Module, Any], Tensor] = loss_of_output,
    indivisible: bool = False,
    label: str = "",
    **exceptions: Any,
) -> Specimen:
    """A row: the exceptions are what the table of sizes does not know of this class."""
    full = f"{name}-{label}" if label else name
    make = partial(tiny, name, **exceptions)
    return Specimen(full, family, make, batch, ask, indivisible=indivisible)


def without_weight_norm(specimen: Specimen) -> Specimen:
    """The same model after the cure that `check_problem` names."""

    def make(eager: bool) -> nn.Module:
        model = specimen.make(eager)
        for module in model.modules():
            if nn.utils.parametrize.is_parametrized(module, "weight"):
                nn.utils.parametrize.remove_parametrizations(module, "weight")
        return model

    return Specimen(f"{specimen.name}-no-weight-norm", specimen.family, make, specimen.batch)


_SHIFTED = dict(patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=4)
_STAGES = dict(hidden_sizes=[8, 16], depths=[1, 1])
_TWO_STAGES = dict(_STAGES, num_stages=2, patch_size=2)
_BLOCKS = dict(_STAGES, num_encoder_blocks=2, patch_sizes=[3, 3], strides=[2, 2])
_PLAIN = dict(_STAGES, embedding_size=8)
_HEARING = dict(
    hidden_size=16, num_hidden_layers=1, conv_dim=[8, 8], conv_kernel=[5, 3], conv_stride=[4, 2],
    num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
)  # fmt: skip
_SPEECH = dict(_HEARING, vocab_size=12, mask_time_length=2, ctc_loss_reduction="mean")
_SERIES = dict(prediction_length=3, context_length=8, lags_sequence=[1, 2], num_time_features=2)
_PATCHES = dict(
    num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, prediction_length=3
)

CLASSIFIERS = "ViT DeiT Dinov2 Dinov2WithRegisters IJepa ViTMSN Siglip Data2VecVision"
LISTENERS = "Wav2Vec2 Hubert UniSpeech UniSpeechSat Data2VecAudio"
VISION = [
    *(
        model(f"{name}ForImageClassification", "vision", pictures())
        for name in CLASSIFIERS.split()
    ),
    model("BeitForImageClassification", "vision", pictures(), use_relative_position_bias=True),
    model("SwinForImageClassification", "vision", pictures(), **_SHIFTED),
    model("Swinv2ForImageClassification", "vision", pictures(), **_SHIFTED),
    model("ConvNextForImageClassification", "vision", pictures(), **_TWO_STAGES),
    model("ConvNextV2ForImageClassification", "vision", pictures(), **_TWO_STAGES),
    model("ResNetForImageClassification", "vision", pictures(), **_PLAIN, layer_type="basic"),
    model("RegNetForImageClassification", "vision", pictures(), **_PLAIN, groups_width=8),
    model("PoolFormerForImageClassification", "vision", pictures(), **_BLOCKS, padding=[1, 1]),
    model(
        "FocalNetForImageClassification", "vision", pictures(),
        patch_size=2, embed_dim=8, depths=[1, 1], focal_levels=[1, 1], focal_windows=[3, 3],
        hidden_sizes=[8, 16],
    ),
    model(
        "MobileViTForImageClassification", "vision", pictures(32), image_size=32,
        hidden_sizes=[8, 12, 16], neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16], mlp_ratio=2.0,
    ),
    model(
        "MobileNetV2ForImageClassification", "vision", pictures(32), image_size=32,
        depth_multiplier=0.1, depth_divisible_by=4, min_depth=4,
        finegrained_output=False,
    ),
    model(
        "EfficientNetForImageClassification", "vision", pictures(32), image_size=32,
        width_coefficient=0.25, depth_coefficient=0.2, depth_divisor=4, hidden_dim=320,
        in_channels=[32, 16], out_channels=[16, 24], kernel_sizes=[3, 3], depthwise_padding=[],
        strides=[1, 2], num_block_repeats=[1, 1], expand_ratios=[1, 2],
    ),
    model(
        "CvtForImageClassification", "vision", pictures(), embed_dim=[8, 16, 16],
        num_heads=[1, 2, 2], depth=[1, 2, 3], patch_sizes=[3, 3, 3], patch_stride=[2, 2, 2],
    ),
    model("SegformerForSemanticSegmentation", "vision", segmented(16), **_BLOCKS,
          sr_ratios=[2, 1], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=8),
    model(
        "DPTForSemanticSegmentation", "vision", segmented(16), patch_size=4, is_hybrid=False,
        num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 4, 8, 8],
        reassemble_factors=[2, 1, 1, 0.5], fusion_hidden_size=8,
    ),
    model("ViTMAEForPreTraining", "vision", unlabelled, decoder_hidden_size=16,
          decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=24,
          mask_ratio=0.5),
    model("ViTForMaskedImageModeling", "vision", patches_hidden, encoder_stride=8),
    model("YolosForObjectDetection", "vision", boxed(16), image_size=[16, 16],
          num_detection_tokens=4),
    model(
        "DetrForObjectDetection", "vision", boxed(32), num_queries=4, backbone=None,
        backbone_config=dict(model_type="resnet", **_PLAIN, layer_type="basic",
                             out_features=["stage2"]),
    ),
]  # fmt: skip
HUBERT = model("HubertForSequenceClassification", "hearing", heard, **_HEARING,
               classifier_proj_size=8)  # fmt: skip
HEARING = [
    *(
        model(f"{name}ForCTC", "hearing", spoken(), **_SPEECH)
        for name in LISTENERS.split()
    ),
    model("WavLMForCTC", "hearing", spoken(), **_SPEECH, num_buckets=8, max_bucket_distance=16),
    model("SEWForCTC", "hearing", spoken(), **_SPEECH, squeeze_factor=2),
    HUBERT,
    without_weight_norm(HUBERT),
    model("ASTForAudioClassification", "hearing", spectrogram, patch_size=4, max_length=16,
          num_mel_bins=8, frequency_stride=4, time_stride=4),
    model("WhisperForConditionalGeneration", "hearing", transcribed, num_mel_bins=8,
          max_source_positions=10, max_target_positions=16, suppress_tokens=None,
          begin_suppress_tokens=None),
    model("SpeechT5ForSpeechToText", "hearing", dictated, **_HEARING, max_text_positions=32,
          max_speech_positions=64),
]  # fmt: skip
READING = [
    model("CLIPModel", "pictures and words", captioned, indivisible=True),
    model("SiglipModel", "pictures and words", captioned, indivisible=True),
    model("BlipForConditionalGeneration", "pictures and words", described),
    model("GitForCausalLM", "pictures and words", described),
    model("ViltForQuestionAnswering", "pictures and words", asked),
    model(
        "LlavaForConditionalGeneration", "pictures and words", conversed,
        image_token_index=3, vision_feature_layer=-1,
        vision_config=dict(model_type="clip_vision_model"), text_config=dict(model_type="llama"),
    ),
    model("LayoutLMForSequenceClassification", "pictures and words", laid_out,
          max_2d_position_embeddings=64),
]  # fmt: skip
FORECASTS = [
    model("PatchTSTForPrediction", "series", observed, **_PATCHES, loss="mse"),
    model("PatchTSTForPrediction", "series", observed, label="student", **_PATCHES, loss="nll",
          distribution_output="student_t", norm_type="layernorm"),
    model("PatchTSMixerForPrediction", "series", observed, **_PATCHES, loss="mse"),
    model("TimeSeriesTransformerForPrediction", "series", forecast, **_SERIES),
    model("InformerForPrediction", "series", forecast, **_SERIES, sampling_factor=2),
    model("AutoformerForPrediction", "series", forecast, **_SERIES, label_length=4,
          moving_average=3, autocorrelation_factor=2),
    model("DecisionTransformerModel", "series", played, imitated, state_dim=3, act_dim=2,
          max_ep_len=20),
]  # fmt: skip
SENSES = [*VISION, *HEARING, *READING, *FORECASTS]
