"""
Is my session noise worth it?
=============================

Pairs within sessions help where the LLM is off by an amount that the turns of a session share.
Whether that is so can be told from labelled sessions before anything is trained:
`skpref.inspection.preference_noise` counts how often the scores put two turns of different classes
in the wrong order, within sessions and across them, and draws the sessions anew for an interval.

The first picture is of made-up dialogues, whose session bias is known. The second is of the
support chats and a real LLM, and there nothing is known beforehand.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from skpref import PreferenceNoiseDisplay
from skpref.datasets import load_support_chats, make_dialogues
from skpref.inspection import preference_noise, prompt_agreement

# %%
# The larger the bias of the sessions, the worse the order across them. The order within sessions
# hardly changes. Without a bias there is no difference to build on, and the interval says so.
biases = [0.0, 0.5, 1.0, 2.0, 3.0]
results = []
for bias in biases:
    data = make_dialogues(n_sessions=60, session_bias=bias, random_state=0)
    results.append(preference_noise(data.llm_scores, data.y_true, data.groups, random_state=0))
    change = results[-1].difference
    print(
        f"bias {bias:.1f}: within {results[-1].within.error:.3f}, "
        f"across {results[-1].across.error:.3f}, difference {change.error:+.3f} "
        f"({change.low:+.3f} to {change.high:+.3f}), helps: {results[-1].intra_session_helps}"
    )

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for kind in ("within", "across"):
    error, low, high = np.array([[r[kind][k] for k in ("error", "low", "high")] for r in results]).T
    axis.plot(biases, error, marker="o", label=f"{kind} sessions")
    axis.fill_between(biases, low, high, alpha=0.2)
axis.set(xlabel="bias of the sessions", ylabel="pairs in wrong order", ylim=(0, None))
axis.legend()
plt.show()

# %%
# The support chats: all of them are labelled, so the answer is as sure as it gets with this many.
chats = load_support_chats()
labels = chats.frame["label"].to_numpy(dtype=object)
noise = preference_noise(
    chats.llm_scores, labels, chats.groups, classes=chats.classes, random_state=0
)
print(fill(noise.message, 90))

# %%
# With the labels of 16 sessions, which is what a team would have, the interval is wider.
few = preference_noise(
    chats.llm_scores, chats.y, chats.groups, classes=chats.classes, random_state=0
)
print(fill(few.message, 90))

# %%
# Wrong order by how far apart the scores are. At 0.5 the order is that of a coin.
PreferenceNoiseDisplay(noise).plot()
plt.show()

# %%
# And which of the prompts is worth its price? From the labels of the same 16 sessions.
agreement = prompt_agreement(
    chats.llm_scores,
    chats.y,
    chats.groups,
    classes=chats.classes,
    prompt_names=chats.prompt_names,
    random_state=0,
)
print(fill(agreement.message, 90))
