"""A CPU rollout server on transformers that speaks SGLang's native HTTP API: `python -m egrc_mega.embedded`.

Endpoints (the contract tests run against them):
    POST /generate, /abort_request, /pause_generation, /continue_generation, /flush_cache, /update_weights_from_disk,
         /init_weights_update_group, /begin_weight_update, /update_weights_from_distributed, /end_weight_update,
         /destroy_weights_update_group, /weights_checker
    GET  /health, /model_info, /server_info, /v1/loads
Absent here (404): /update_weights_from_tensor, which takes pickles, /release_memory_occupation, the OpenAI routes.
    Streaming and n > 1 are refused with 400.

Tokens and log-probs are a pure function of weights, prompt, seed and sampling parameters: a row's logits do not depend
on its company (static batches of a multiple of 16 rows, prompts left-padded to fixed widths, one thread), and every
request draws from a generator of its own.
"""
