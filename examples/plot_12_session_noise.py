"""
Do the sessions share an error?
===============================

Pairs within sessions help if the LLM makes an error that the utterances of a session share.
Labelled sessions show whether this is the case before anything is trained:
`skpref.inspection.preference_noise` counts how often the scores put two utterances of different
classes in the wrong order, within sessions and across them, and resamples the sessions for an
interval.

The first figure uses synthetic dialogues with a known session bias. The second uses the support
chats and a real LLM, whose bias is not known beforehand.
"""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from skpref import PreferenceNoiseDisplay
from skpref.datasets import load_support_chats, make_dialogues
from skpref.inspection import preference_noise, prompt_agreement

# %%
# The larger the bias of the sessions, the worse the order across sessions. The order within
# sessions hardly changes. Without a bias there is no difference, as the interval shows.
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
axis.set_title("A bias of whole sessions spoils the order across them alone")
axis.legend()
plt.show()

# %%
# The support chats. All of them are labelled, so the interval is as narrow as their number allows.
chats = load_support_chats()
labels = chats.frame["label"].to_numpy(dtype=object)
noise = preference_noise(
    chats.llm_scores, labels, chats.groups, classes=chats.classes, random_state=0
)
print(fill(noise.message, 90))

# %%
# With the labels of only 16 sessions, a more realistic number, the interval is wider.
few = preference_noise(
    chats.llm_scores, chats.y, chats.groups, classes=chats.classes, random_state=0
)
print(fill(few.message, 90))

# %%
# The share of pairs in the wrong order by the difference of their scores. At 0.5 the order is
# random.
display = PreferenceNoiseDisplay(noise).plot()
display.ax_.set_title("Support chats: hardly any difference")
plt.show()

# %%
# Which of the prompts is worth its price, according to the labels of the same 16 sessions?
agreement = prompt_agreement(
    chats.llm_scores,
    chats.y,
    chats.groups,
    classes=chats.classes,
    prompt_names=chats.prompt_names,
    random_state=0,
)
print(fill(agreement.message, 90))
