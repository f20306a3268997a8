"""Small params.json files whose every size differs from the released model's proportions."""

import copy

ODD = {
    "dim": 40,
    "n_layers": 2,
    "head_dim": 12,
    "hidden_dim": 88,
    "n_heads": 6,
    "n_kv_heads": 3,
    "use_biases": False,
    "rope_theta": 50000.0,
    "norm_eps": 1e-3,
    "vocab_size": 2048,
    "tied_embeddings": True,
    "causal": True,
    "max_position_embeddings": 2048,
    "max_seq_len": 2048,
    "model_type": "voxtral_tts",
    "multimodal": {
        "bos_token_id": 1,
        "audio_model_args": {
            "semantic_codebook_size": 50,
            "acoustic_codebook_size": 9,
            "n_acoustic_codebook": 5,
            "audio_encoding_args": {
                "codebook_pattern": "parallel",
                "interleave_audio_tokens_per_segment": 8192,
                "interleave_text_tokens_per_segment": 8192,
                "single_trailing_segment": False,
                "num_codebooks": 6,
                "sampling_rate": 24000,
                "frame_rate": 50.0,
            },
            "audio_token_id": 24,
            "begin_audio_token_id": 25,
            "input_embedding_concat_type": "sum",
            "acoustic_transformer_args": {
                "input_dim": 40,
                "dim": 28,
                "n_layers": 2,
                "head_dim": 10,
                "hidden_dim": 52,
                "n_heads": 3,
                "n_kv_heads": 1,
                "use_biases": False,
                "rope_theta": 10000.0,
                "n_decoding_steps": 5,
                "sigma": 1e-5,
                "sigma_max": 1.0,
            },
            "p_uncond": 0.0,
            "text_feature_bugged": False,
            "condition_dropped_token_id": 42,
        },
        "audio_tokenizer_args": {
            "channels": 1,
            "sampling_rate": 24000,
            "pretransform_patch_size": 120,
            "patch_proj_kernel_size": 7,
            "semantic_codebook_size": 50,
            "semantic_dim": 7,
            "acoustic_codebook_size": 9,
            "acoustic_dim": 5,
            "conv_weight_norm": True,
            "causal": True,
            "attn_sliding_window_size": 8,
            "half_attn_window_upon_downsampling": True,
            "dim": 26,
            "hidden_dim": 44,
            "head_dim": 6,
            "n_heads": 6,
            "n_kv_heads": 3,
            "qk_norm_eps": 1e-4,
            "qk_norm": True,
            "use_biases": False,
            "norm_eps": 0.02,
            "layer_scale": True,
            "layer_scale_init": 0.01,
            "encoder_transformer_lengths_str": "1,2,1",
            "encoder_convs_kernels_str": "4,4,3",
            "encoder_convs_strides_str": "2,2,1",
            "decoder_transformer_lengths_str": "2,1,1",
            "decoder_convs_kernels_str": "3,4,4",
            "decoder_convs_strides_str": "1,2,2",
            "voice": {"neutral_female": 0, "hi_male": 5, "casual_male": 2},
        },
    },
}


def odd_params() -> dict:
    """Sizes that share no factor by chance: 5 acoustic codes of 9 levels, 50 frames a second,
    grouped heads everywhere, head counts that are no powers of two, five flow steps.

    A single frame is 4 steps of 120 samples, fewer than the 6 that reflect padding wants.
    """
    return copy.deepcopy(ODD)


def skipping_params() -> dict:
    """As `odd_params`, but with convolutions left out in the middle of encoder and decoder.

    The blocks are numbered as they stand in the list: a block left out takes no number.
    No query norm, layer scale or weight norm; the window is the same everywhere. Kernels are not
    twice their stride, the acoustic transformer has an epsilon of its own, and the table of text
    embeddings ends between two powers of two.
    """
    params = odd_params()
    params["vocab_size"] = 1700
    audio = params["multimodal"]["audio_model_args"]
    audio["acoustic_transformer_args"]["norm_eps"] = 1e-2
    params["multimodal"]["audio_tokenizer_args"] |= {
        "patch_proj_kernel_size": 5,
        "attn_sliding_window_size": 5,
        "half_attn_window_upon_downsampling": False,
        "qk_norm": False,
        "layer_scale": False,
        "conv_weight_norm": False,
        "encoder_transformer_lengths_str": "1,1,1",
        "encoder_convs_kernels_str": "5,1,2",
        "encoder_convs_strides_str": "2,1,2",
        "decoder_transformer_lengths_str": "1,1,1,1",
        "decoder_convs_kernels_str": "4,1,3,5",
        "decoder_convs_strides_str": "1,1,2,2",
    }
    return params
