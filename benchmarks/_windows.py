"""Networks of windows of turns that were tried beside `module="turns"`."""

import torch
from torch import Tensor, nn


class Window(nn.Module):
    """The parts that all have: a layer shared by the turns, and a linear last layer."""

    def __init__(self, n_features, n_outputs, n_turns=2, hidden_units=128, dropout=0.3, context=64):
        super().__init__()
        self.n_turns = n_turns
        self.hidden = nn.Linear(n_features // (n_turns + 1), hidden_units)
        self.dropout = nn.Dropout(dropout)
        self.build(hidden_units, context)
        self.output = nn.Linear(hidden_units + context, n_outputs)
        with torch.no_grad():
            self.output.weight[:, hidden_units:] = 0

    def forward(self, X: Tensor) -> Tensor:
        """Score windows, shape (n_rows, n_features), as (n_rows, n_outputs)."""
        turns = X.unflatten(1, (self.n_turns + 1, -1))
        known = (turns != 0).any(dim=2, keepdim=True).to(X.dtype)
        hidden = self.dropout(torch.relu(self.hidden(turns))) * known
        return self.output(torch.cat([hidden[:, 0], self.read(hidden, known)], dim=1))


class Recurrent(Window):
    """A GRU over the turns, the utterance last."""

    def build(self, hidden_units, context):
        """Make the GRU."""
        self.gru = nn.GRU(hidden_units, context, batch_first=True)

    def read(self, hidden, known):
        """Return the state after the utterance, zero if there is no turn before it."""
        return self.gru(hidden.flip(1))[0][:, -1] * known[:, 1]


class Attention(Window):
    """Attention of the utterance to the turns before it, or to none of them."""

    def build(self, hidden_units, context):
        """Make queries, keys and values."""
        self.query, self.key, self.value = (nn.Linear(hidden_units, context) for _ in range(3))

    def read(self, hidden, known):
        """Return the mean of the values, weighted by the attention."""
        before = hidden[:, 1:]
        fit = (self.key(before) * self.query(hidden[:, :1])).sum(dim=2) / 8
        fit = fit.masked_fill(known[:, 1:, 0] == 0, -torch.inf)
        share = torch.cat([fit, torch.zeros_like(fit[:, :1])], dim=1).softmax(dim=1)[:, :-1]
        return (share.unsqueeze(2) * self.value(before)).sum(dim=1)
