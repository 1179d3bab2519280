"""What "generation as long as training" may mean, as seconds of training for each token.

Of phases: a synchronous step generates as long as it trains, the wait for its longest response included. Of work:
servers that are full all the time need as long for a batch as the trainer does; a synchronous step, which waits for its
longest response while most servers are empty, generates several times as long then.
"""

from dataclasses import replace

import numpy as np

from egrc_mega.plan.schedule.modes import Sync
from egrc_mega.plan.schedule.setting import Setting, Window

NUM_LENGTHS = 100_000
"""That moments of the distribution are taken of."""


def with_equal_phases(setting: Setting, window: Window, ratio: float = 1.0) -> Setting:
    """Training takes so long that the mean generation phase of synchronous steps is `ratio` times as long."""
    steps = Sync(setting, window).run().steps
    num_responses = setting.prompts_per_step * setting.n
    num_tokens = sum(step.num_tokens + num_responses * setting.prompt_tokens for step in steps)
    return replace(setting, train_token_s=sum(step.wait_s for step in steps) / num_tokens / ratio)


def with_equal_work(setting: Setting) -> Setting:
    """Training takes as long as servers that keep the share of a batch that they have at its begin.

    A response of mean length in such a server, whose other requests are as old as requests are on average.
    """
    lengths = setting.responses.of(0, NUM_LENGTHS).astype(np.float64)
    mean, context = float(lengths.mean()), setting.prompt_tokens + float((lengths**2).mean() / lengths.mean()) / 2
    law = setting.law
    own = setting.prompts_per_step * setting.n / setting.num_servers
    running = max(1, round(min(own, law.kv_tokens / (setting.prompt_tokens + mean))))
    seconds = mean * (law.dense_s(running) + law.kv_token_s * running * context) * own / running
    num_tokens = setting.prompts_per_step * setting.n * (mean + setting.prompt_tokens)
    return replace(setting, train_token_s=seconds / num_tokens)
