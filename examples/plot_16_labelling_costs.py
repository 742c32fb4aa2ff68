"""
What labelling costs
====================

Ask an LLM about every utterance of 161 support chats: with three prompts, with one, or about a
whole chat at a time. ``plan`` counts requests and tokens before anything is paid, and ``preview``
shows what would be sent. Nothing here asks an LLM.
"""

import matplotlib.pyplot as plt
import pandas as pd

from skpref import LLMLabeler, PromptBank
from skpref.datasets import load_support_chats

chats = load_support_chats()
prices = (0.15, 0.60)  # dollars for a million tokens read and written: an example
mood = {"task": "the mood of the speaker"}


def make(**settings):
    """Make a labeler, ready to be asked what it would do."""
    settings = {"model": "an-llm", "speaker": "speaker", "prices": prices} | settings
    return LLMLabeler(chats.classes, **settings).fit(chats.frame, chats.y)


ways = {
    "three prompts": make(prompts=PromptBank(**mood)),
    "one short prompt": make(prompts=PromptBank("short", **mood)),
    "whole chats": make(prompts=PromptBank("session", **mood), unit="session"),
}

# %%
# A chat is asked about in windows that overlap, so a call pays for instructions once and for each
# utterance about once. This is what it would send for the first one.
print(ways["whole chats"].preview(chats.frame, row=0))

# %%
# Plans
# -----
#
# Tokens are estimated at four characters each, until answers in the cache tell better.
plans = {name: labeler.plan(chats.frame) for name, labeler in ways.items()}
for name, plan in plans.items():
    print(f"{name}: {plan.message}\n")

# %%
# Examples, context and instructions are read again for each utterance, unless whole chats are
# asked. Many providers take half for batches, which are answered within a day (``batch=True``).
# Before you choose, compare qualities on a sample of labelled chats: the errors of one call are
# shared by its chat, and one prompt has nothing to be averaged with.
per_call = 100_000 / len(chats.frame)
dollars = pd.DataFrame(
    {
        "read": {n: per_call * p.prompt_tokens * prices[0] / 1e6 for n, p in plans.items()},
        "written": {n: per_call * p.completion_tokens * prices[1] / 1e6 for n, p in plans.items()},
    }
)
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
dollars[::-1].plot.barh(stacked=True, ax=axis, color=["#0072B2", "#E69F00"], width=0.6)
for place, (name, cost) in enumerate(dollars[::-1].sum(axis=1).items()):
    calls = f"{plans[name].n_requests:,} calls for these chats"
    axis.annotate(f" {cost:.2f}, in batches {cost / 2:.2f}; {calls}", (cost, place), va="center")
axis.set(xlabel="dollars for 100,000 utterances", title="The same utterances, asked in three ways")
axis.set_xlim(0, 2.8 * dollars.sum(axis=1).max())
axis.legend(title="tokens", loc="lower right", frameon=False)
plt.show()

# %%
# ``max_cost`` ends a run before it costs more, with every answer kept; the next one asks only for
# the rest.
