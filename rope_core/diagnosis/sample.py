"""The tokens that a diagnosis looks at: small, large and neighbouring positions."""

from dataclasses import replace

import torch
from torch import Tensor

from rope_core.diagnosis.calls import RotaryCall

SLACK = 3.0
"""A sample may have a larger relative error than all tokens, by up to this factor."""

ANGLES = 2**20
"""Angles that decide the tolerance; more are taken from some of the tokens."""

TOKENS = 128
"""Tokens of a sample, at most, and some more where many rows have few each."""

HEADS = 8
"""Heads of a sample, at most, unless most numbers are 0."""

MAX_ROWS = 8
"""Rows of a batch in a sample."""


def choose_tokens(
    positions: Tensor, rows: int, used: Tensor, *also: int, count: int = TOKENS
) -> Tensor:
    """Return the tokens of a sample, int64 in their order.

    Args:
        positions: `[A, T]`.
        rows: of the batch.
        used: bool `[T]`, tokens that show something.
        also: tokens to take in any case.
        count: size of the sample.
    """
    length = positions.shape[1] // rows
    if positions.shape[1] <= count:
        return torch.arange(positions.shape[1])
    chosen = [torch.tensor(also, dtype=torch.int64)]
    few = sorted(set(torch.linspace(0, rows - 1, min(rows, MAX_ROWS)).long().tolist()))
    budget = max(12, count // len(few))
    for row in few:
        tokens = torch.arange(row * length, (row + 1) * length)
        tokens = tokens[used[tokens]]
        if len(positions) == 1:  # by position; tokens of several axes are neighbours in a grid
            tokens = tokens[positions[0, tokens].argsort(stable=True)]
        chosen.append(tokens[_ranks(len(tokens), budget)])
    return torch.tensor(sorted(set(torch.cat(chosen).tolist())))


def _ranks(count: int, budget: int) -> Tensor:
    """Return about `budget` of the ranks 0 to count - 1: both ends, and neighbours in between."""
    if count <= budget:
        return torch.arange(count)
    run = budget // 4
    first, last = torch.arange(run), torch.arange(count - run, count)
    ladder = torch.logspace(0, 1, budget // 8, base=float(count), dtype=torch.float64).long()
    middle = torch.arange(budget // 4) + count // 2
    ranks = torch.cat((first, last, ladder, ladder + 1, middle))
    return torch.tensor(sorted(set(ranks[ranks < count].tolist())))


def choose_heads(before: Tensor) -> Tensor:
    """Return the heads of a sample of tokens `[T, H, D]`, int64: all of them if most are 0."""
    heads = before.shape[1]
    if heads <= HEADS or float((before == 0).double().mean()) > 0.5:
        return torch.arange(heads)
    return torch.linspace(0, heads - 1, HEADS).long()


def squared_angles(right: RotaryCall) -> tuple[Tensor, int]:
    """Return the squared angles of every so many tokens, `[t, n]`, and how many."""
    table = right.rope.frequency_table
    step = max(1, -(-right.positions.shape[1] * len(table.inv_freq) // ANGLES))
    exact = replace(table, inv_freq=table.inv_freq.double())
    return table.angles(right.positions[:, ::step], exact).square(), step
