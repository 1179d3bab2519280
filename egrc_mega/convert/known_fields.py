"""Fields of a config.json that change nothing in what a decoder computes, and such as may only be empty.

Whatever stands in neither list and is no field of the family's own is refused by name: see `HfConfig.check_fields`.
"""


def words(text: str) -> frozenset[str]:
    """The words of a text, as names."""
    return frozenset(text.split())


GENERATION = words(
    "max_length max_new_tokens min_length min_new_tokens do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff repetition_penalty "
    "length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences "
    "output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values "
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens use_cache"
)
"""How to sample, in files of old: generation_config.json has the word today, and requests have the last."""

HARMLESS = GENERATION | words(
    "_name_or_path name_or_path _model_name_or_path _commit_hash "
    "architectures model_type transformers_version auto_map tokenizer_class "
    "transformers.js_config dtype torch_dtype initializer_range attention_dropout hidden_dropout resid_pdrop "
    "bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id "
    "decoder_start_token_id model_max_length max_position_embeddings "
    "output_attentions output_hidden_states output_router_logits router_aux_loss_coef return_dict use_return_dict "
    "_attn_implementation attn_implementation _attn_implementation_autoset _attn_implementation_internal "
    "_experts_implementation_internal _experts_implementation _flash_attn_2_enabled use_flash_attention_2 "
    "id2label label2id num_labels problem_type finetuning_task task_specific_params prefix is_llama_config is_decoder "
    "tie_encoder_decoder tie_last_hidden_states chunk_size_feed_forward use_bfloat16 tf_legacy_loss "
    "unsloth_fixed unsloth_version unsloth_training_num_items"
)
"""Names, versions, token ids, what only training or the form of a reply looks at."""

FALSE_ONLY = words(
    "is_encoder_decoder add_cross_attention cross_attention_hidden_size pruned_heads torchscript use_mrope "
    "rope_interleaved per_layer_config"
)
"""Fields that say that nothing special is meant."""

NULL_ONLY = {
    "quantization_config": "the weights of this folder would have to be quantised; delete it where they are not, or "
    "unpack them",
    "compression_config": "the weights of this folder would have to be compressed; delete it where they are not",
    "transformers_weights": "transformers loads the file that it names, other programs model.safetensors; rename the "
    "file and delete the field",
}
"""Fields that tell readers to load the weights in another way -> why they are refused."""
