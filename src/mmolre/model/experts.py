"""Low-rank convolutional experts, computed as one bank.

Expert n is two convolutions over time, kernel 3 then kernel 1, d -> r_n -> d (paper). A bank holds N of them, with the
first convolutions concatenated into one of R = sum r_n columns, so that the gated sum

    sum_n g_n f_n(x) = (G * act(conv3(x))) W2 + g b2,    G = each g_n repeated over its r_n columns,

is two matrix products whatever N is (ours; exact for any ranks and gates). Where few of many experts are kept per
utterance, gathering only their columns is faster (``mix`` chooses; ``benchmarks/gather.py`` measures). ``looped`` is
the same sum expert by expert with ``torch.nn.functional.conv1d``: the oracle of the tests.

Shape suffixes: s sources, k tasks, b batch, t time, d width, r columns (sum of ranks), n experts.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmolre.model.gated import gated_gelu
from mmolre.model.neighbours import KERNEL, Neighbours

GATHER_SAVES, GATHER_COPIES = 1.6, 44.0
"""Gathering beats computing all where it saves the factor 1.6 + 44 / T of multiplications: copying the columns costs
the same however long an utterance is. Measured by ``benchmarks/gather.py`` on a CPU, float32, forward + backward."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "none": lambda x: x}


class LowRankExperts(nn.Module):
    """A bank of N low-rank convolutional experts.

    An expert of rank r at width d has (3 d + 1) r + (r + 1) d parameters; r = d gives the full-rank expert.

    Args:
        width: d.
        ranks: r_n, one per expert, each at least 1, possibly unequal.
        activation: a name in :data:`ACTIVATIONS`.
    """

    def __init__(self, width: int, ranks: Sequence[int], activation: str = "gelu") -> None:
        super().__init__()
        self.width = width
        self.ranks = tuple(ranks)
        self.activation = ACTIVATIONS[activation]
        columns = sum(self.ranks)
        self.weight_in = nn.Parameter(torch.empty(columns, KERNEL * width))
        self.bias_in = nn.Parameter(torch.zeros(columns))
        self.weight_out = nn.Parameter(torch.empty(columns, width))
        self.bias_out = nn.Parameter(torch.zeros(len(self.ranks), width))
        self.register_buffer("_expert_of_column", _expert_of_column(self.ranks), persistent=False)
        columns_of_expert, real = _columns(self.ranks)
        self.register_buffer("_columns_of_expert", columns_of_expert, persistent=False)
        self.register_buffer("_real", real, persistent=False)
        # As nn.Conv1d would: the fan-in of the second convolution is the expert's own rank, not the bank's.
        bound = 1 / math.sqrt(KERNEL * width)
        nn.init.uniform_(self.weight_in, -bound, bound)
        with torch.no_grad():
            for rank, rows in zip(self.ranks, self.weight_out.split(self.ranks), strict=True):
                nn.init.uniform_(rows, -1 / math.sqrt(rank), 1 / math.sqrt(rank))

    def expand(self, read: Neighbours) -> Tensor:
        """First convolutions of all experts and the activation: (..., T, d) -> (..., T, R)."""
        return self.activation(read.convolve(self.weight_in, self.bias_in))

    def combine(self, hidden_btr: Tensor, gates: Tensor) -> Tensor:
        """Gated sum of the experts' second convolutions.

        Args:
            hidden_btr: (..., T, R) from :meth:`expand`.
            gates: (..., N) per utterance or (..., T, N) per token; leading axes broadcast against the hidden's.

        Returns:
            (..., T, d).
        """
        if gates.ndim < hidden_btr.ndim:
            gates = gates.unsqueeze(-2)
        # In the columns' own precision: a product of two kinds is slow, and under autocast rounded back again.
        gates = gates.to(hidden_btr.dtype)
        gated = hidden_btr * gates.index_select(-1, self._expert_of_column)  # type: ignore[arg-type]
        return (gated @ self.weight_out).add_(gates @ self.bias_out)

    def mix(self, read_sbtd: Neighbours, gates_kbn: Tensor, kept: int) -> Tensor:
        """Gated sums for K tasks, gates per utterance, by whichever way is the faster; both give the same.

        Args:
            read_sbtd: (S, B, T, d); S = 1 where the tasks read the same, else S = K.
            gates_kbn: (K, B, N), at most ``kept`` of each N not 0.
            kept: how many experts a router keeps.

        Returns:
            (K, B, T, d).
        """
        sources, _, time, _ = read_sbtd.x.shape
        tasks = len(gates_kbn)
        of_all = (sources * KERNEL + tasks) * sum(self.ranks)
        of_chosen = tasks * (KERNEL + 1) * kept * max(self.ranks)
        if of_all >= (GATHER_SAVES + GATHER_COPIES / max(time, 1)) * of_chosen:
            return self.gathered(read_sbtd, gates_kbn, kept)
        return self.folded(read_sbtd, gates_kbn)

    def folded(self, read: Neighbours, gates: Tensor) -> Tensor:
        """:meth:`combine` of :meth:`expand`, as one where that is faster; (..., T, d), gates as in :meth:`combine`."""
        if self.activation is not F.gelu or torch.is_autocast_enabled(read.x.device.type):
            return self.combine(self.expand(read), gates)
        if gates.ndim < read.x.ndim:
            gates = gates.unsqueeze(-2)
        columns = gates.index_select(-1, self._expert_of_column)  # type: ignore[arg-type]
        total = gated_gelu(read.convolve(self.weight_in, self.bias_in), columns, self.weight_out)
        return total.add_(gates @ self.bias_out)

    def gathered(self, read_sbtd: Neighbours, gates_kbn: Tensor, kept: int) -> Tensor:
        """:meth:`mix` by the kept experts' columns alone: a batched product, each utterance with columns of its own."""
        tasks, batch, _ = gates_kbn.shape
        x = read_sbtd.windows.expand(tasks, -1, -1, -1).flatten(0, 1)
        weights, experts = gates_kbn.flatten(0, 1).topk(kept, dim=-1)
        # Experts of a lower rank than the highest are filled up with columns of gate 0.
        columns = self._columns_of_expert[experts].flatten(1)  # type: ignore[index]
        gates = (weights[..., None] * self._real[experts]).flatten(1)[:, None]  # type: ignore[index]

        def rows(of: Tensor) -> Tensor:
            return of.index_select(0, columns.flatten()).unflatten(0, columns.shape)

        hidden = torch.baddbmm(rows(self.bias_in)[:, None], x, rows(self.weight_in).transpose(1, 2))
        total = torch.bmm(self.activation(hidden) * gates, rows(self.weight_out))
        return total.unflatten(0, (tasks, batch)) + (gates_kbn @ self.bias_out)[..., None, :]

    def forward(self, x_btd: Tensor, gates: Tensor) -> Tensor:
        """(B, T, d) and gates (B, N) or (B, T, N) -> sum_n g_n f_n(x), (B, T, d)."""
        return self.folded(Neighbours(x_btd), gates)

    def looped(self, x_btd: Tensor, gates: Tensor) -> Tensor:
        """:meth:`forward`, one expert after another; slow and obvious."""
        if gates.ndim < x_btd.ndim:
            gates = gates.unsqueeze(-2)
        x_bdt = x_btd.transpose(1, 2)
        total = torch.zeros_like(x_btd)
        start = 0
        for n, rank in enumerate(self.ranks):
            rows = slice(start, start + rank)
            kernel = self.weight_in[rows].view(rank, KERNEL, self.width).transpose(1, 2)
            hidden = self.activation(F.conv1d(x_bdt, kernel, self.bias_in[rows], padding=1))
            expert = F.conv1d(hidden, self.weight_out[rows].t().unsqueeze(-1), self.bias_out[n])
            total = total + gates[..., n : n + 1] * expert.transpose(1, 2)
            start += rank
        return total

    def extra_repr(self) -> str:
        return f"width={self.width}, ranks={self.ranks}"


def _columns(ranks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(N, highest rank) each: the experts' columns, filled up with column 0, and which of them are real."""
    places = torch.arange(max(ranks))
    real = places < torch.tensor(ranks)[:, None]
    starts = torch.tensor([sum(ranks[:n]) for n in range(len(ranks))])
    return torch.where(real, starts[:, None] + places, 0), real


def _expert_of_column(ranks: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
