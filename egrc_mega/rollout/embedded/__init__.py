"""A CPU rollout server on transformers that speaks SGLang's native HTTP API: `python -m egrc_mega.rollout.embedded`.

Core endpoints (every rollout server must have them; the contract tests run against them):
    POST /generate, /update_weights_from_disk, /pause_generation, /continue_generation, /flush_cache, /abort_request
    GET  /health, /model_info, /server_info
Optional in SGLang and absent here (404): /update_weights_from_tensor and _from_distributed, the update session,
    /release_memory_occupation, /weights_checker, the OpenAI routes. Streaming and n > 1 are refused with 400.

Tokens and log-probs are a pure function of weights, prompt, seed and sampling parameters: a row's logits do not depend
on its company (static batches of a multiple of 16 rows, prompts left-padded to fixed widths, one thread), and every
request draws from a generator of its own.
"""
