"""Networks that the levers try: of the turns before an utterance, and one beside a linear one."""

import torch
from torch import Tensor, nn


class Window(nn.Module):
    """The parts that all have: a layer that the turns share, and a linear last layer.

    A row holds the features of the utterance, then those of `n_turns` turns before it, the newest
    first; zeros if there is no turn. At first the turns before have no weight in the scores.
    """

    def __init__(self, n_features, n_outputs, n_turns=2, hidden_units=128, dropout=0.3):
        super().__init__()
        self.n_turns = n_turns
        self.hidden = nn.Linear(n_features // (n_turns + 1), hidden_units)
        self.dropout = nn.Dropout(dropout)
        n_context = self.build(hidden_units)
        self.output = nn.Linear(hidden_units + n_context, n_outputs)
        with torch.no_grad():
            self.output.weight[:, hidden_units:] = 0

    def forward(self, X: Tensor) -> Tensor:
        """Score windows, shape (n_rows, n_features), as (n_rows, n_outputs)."""
        turns = X.unflatten(1, (self.n_turns + 1, -1))
        known = (turns != 0).any(dim=2, keepdim=True).to(X.dtype)
        hidden = self.dropout(torch.relu(self.hidden(turns))) * known
        return self.output(torch.cat([hidden[:, 0], self.read(hidden, known)], dim=1))


class GatedSum(Window):
    """A sum of the turns before, through a gate that sees the utterance and the turn."""

    def build(self, hidden_units):
        """Make the gate; return the size of the sum."""
        self.gate = nn.Linear(2 * hidden_units, hidden_units)
        self.distance = nn.Parameter(torch.zeros(self.n_turns, hidden_units))
        return hidden_units

    def read(self, hidden, known):
        """Return the sum."""
        before = hidden[:, 1:]
        both = torch.cat([hidden[:, :1].expand_as(before), before], dim=2)
        gate = torch.sigmoid(self.gate(both) + self.distance)
        return (gate * before * known[:, 1:]).sum(dim=1)


class Recurrent(Window):
    """A GRU over the turns, the utterance last."""

    def build(self, hidden_units):
        """Make the GRU; return the number of its units."""
        self.gru = nn.GRU(hidden_units, hidden_units // 2, batch_first=True)
        return hidden_units // 2

    def read(self, hidden, known):
        """Return the state after the utterance, zero if there is no turn before it."""
        return self.gru(hidden.flip(1))[0][:, -1] * known[:, 1]


class Attention(Window):
    """Attention of the utterance to the turns before it, or to none of them."""

    def build(self, hidden_units):
        """Make queries, keys and values; return their size."""
        size = hidden_units // 2
        self.query, self.key, self.value = (nn.Linear(hidden_units, size) for _ in range(3))
        return size

    def read(self, hidden, known):
        """Return the mean of the values, weighted by the attention."""
        before = hidden[:, 1:]
        fit = (self.key(before) * self.query(hidden[:, :1])).sum(dim=2) / 8
        fit = fit.masked_fill(known[:, 1:, 0] == 0, -torch.inf)
        share = torch.cat([fit, torch.zeros_like(fit[:, :1])], dim=1).softmax(dim=1)[:, :-1]
        return (share.unsqueeze(2) * self.value(before)).sum(dim=1)


class Beside(nn.Module):
    """A hidden layer beside linear scores, which start at zero."""

    def __init__(self, n_features, n_outputs, hidden_units=128, dropout=0.3):
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(n_features, hidden_units), nn.ReLU(), nn.Dropout(dropout)
        )
        self.output = nn.Linear(n_features + hidden_units, n_outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, X: Tensor) -> Tensor:
        """Score the rows of `X`, shape (n_rows, n_features), as (n_rows, n_outputs)."""
        return self.output(torch.cat([X, self.hidden(X)], dim=1))
