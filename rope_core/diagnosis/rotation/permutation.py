"""Measure the order in which the channels of a rotated head come out."""

from dataclasses import replace

import torch
from torch import Tensor

from rope_core.diagnosis.angles.slopes import line_residuals, measure_gain
from rope_core.diagnosis.calls import RotaryCall, predict
from rope_core.diagnosis.rotation.evidence import RotationEvidence, reproduce
from rope_core.diagnosis.rotation.geometry import Geometry, geometry

ROWS = 128
"""Heads of tokens whose energies are compared, of dense evidence."""

SPARSE_ROWS = 4096
"""The same of evidence whose rows excite one pair each."""

MAX_CHANNELS = 512
"""Widest head whose pairs of channels are searched: their number grows with the square."""

MATCHED = 8
"""Tokens, about, that refuse an order of the channels before all are looked at."""

CHANCE = 3.0
"""Channels that belong together are more alike than others, by this factor."""

SPARSE = 1e-3
"""Share of a row's energy outside of one pair, at most, if the row excites this pair only."""

ROUNDINGS = 30.0
"""Largest difference of energies, as a multiple of the rounding of the dtype."""


def measure_permutation(evidence: RotationEvidence, right: RotaryCall) -> tuple[int, ...] | None:
    """Return the permutation with after = rotated[..., permutation]; None if there is none.

    A rotation keeps the energy of a pair, wherever its two channels come out: the channels of each
    pair are those with this energy in all tokens. Which of the two is the first is decided by the
    angles, which fit a line over the positions in one of the two orders only.
    """
    shape = geometry(right)
    if not right.times or not right.rope.is_rotation or right.rope.head_dim > MAX_CHANNELS:
        return None
    x, y = _rows(evidence)
    pairs = _pair_channels(x, y, shape, torch.finfo(evidence.after.dtype).eps)
    if pairs is None:
        return None
    first, second = pairs
    goes_to = torch.empty(right.rope.head_dim, dtype=torch.int64)
    if len(shape.rest_write):
        inside = torch.zeros(right.rope.head_dim, dtype=torch.bool)
        inside[first] = inside[second] = True
        left = (~inside).nonzero().flatten()
        distances = torch.cdist(x[:, shape.rest_read].mT, y[:, left].mT)
        goes_to[shape.rest_write] = left[distances.argmin(1)]
    if _is_sparse(x):  # each token shows one pair
        evidence = _with_more_tokens(evidence)
    orders = []
    for one, other in ((first, second), (second, first)):
        goes_to[shape.write[0]], goes_to[shape.write[1]] = one, other
        if len(set(goes_to.tolist())) < len(goes_to):
            return None
        orders.append(goes_to.clone())
    straight, crossed = (
        _order_errors(evidence, replace(right, permutation=tuple(order.argsort().tolist())))
        for order in orders
    )
    is_crossed = crossed < straight
    goes_to[shape.write[0]] = torch.where(is_crossed, second, first)
    goes_to[shape.write[1]] = torch.where(is_crossed, first, second)
    permutation = tuple(goes_to.argsort().tolist())
    return None if permutation == tuple(range(len(permutation))) else permutation


def match_channels(
    evidence: RotationEvidence, call: RotaryCall, limit: float
) -> tuple[int, ...] | None:
    """Return the permutation with after = what `call` gives[..., permutation]; None if none is.

    Channels are compared one by one, whatever pairs or angles they have. A channel that nothing
    tells from others is taken to be where it should be. There is none if other channels would be
    nearly as alike by chance.

    Args:
        evidence: with the sample.
        call: reproduces the channels, if they are put in another order.
        limit: largest relative error.
    """
    index, before, after = evidence.sample(call.position_axis)
    if before.shape[-1] > MAX_CHANNELS:
        return None
    step = max(1, len(index) // MATCHED)
    if _distances(call, index[::step], before[::step], after[::step], limit) is None:
        return None  # a few tokens refuse most calls
    if _is_sparse(before):
        index, before, after = _with_more_tokens(evidence).sample(call.position_axis)
    found = _distances(call, index, before, after, limit)
    return None if found is None else _assigned(*found)


def _distances(
    call: RotaryCall, index: Tensor, before: Tensor, after: Tensor, limit: float
) -> tuple[Tensor, Tensor] | None:
    """Return how far each channel of `after` is from each channel that `call` gives, squared.

    Returns:
        `[D, D]`, and the energy of each channel of `after`, `[D]`; None if some of them is unlike
        all channels, or if others are nearly as alike.
    """
    given = reproduce(call, before, index).flatten(0, -2)
    got = after.flatten(0, -2)
    energy, energy_out = given.square().sum(0), got.square().sum(0)
    allowed = limit**2 * float(energy.sum())
    distances = energy_out[:, None] + energy - 2 * got.mT @ given
    alike = float(distances.amin(1).clamp_min(0).sum())
    if alike > allowed:
        return None
    among = energy[:, None] + energy - 2 * given.mT @ given
    among.diagonal().fill_(torch.inf)
    if alike > float(among.amin(1).clamp_min(0).sum()) / CHANCE**2:
        return None
    distances.diagonal().sub_(allowed / len(energy) ** 2)
    return distances, energy_out


def _assigned(distances: Tensor, energy: Tensor) -> tuple[int, ...] | None:
    """Return the nearest channel of each, every one once; None if all are in their place."""
    permutation = distances.argmin(1).tolist()
    if len(set(permutation)) < len(permutation):
        for channel in energy.argsort(descending=True).tolist():
            permutation[channel] = best = int(distances[channel].argmin())
            distances[:, best] = torch.inf
    return None if permutation == [*range(len(permutation))] else tuple(permutation)


def _with_more_tokens(evidence: RotationEvidence) -> RotationEvidence:
    """Return the evidence with a sample of SPARSE_ROWS heads of tokens, if it has fewer."""
    return replace(evidence, size=max(evidence.size, SPARSE_ROWS // evidence.shape[2]))


def _is_sparse(x: Tensor) -> bool:
    return float((x == 0).double().mean()) > 0.5


def _rows(evidence: RotationEvidence) -> tuple[Tensor, Tensor]:
    """Return heads of tokens that are not all 0, before and after: float64 `[R, D]`."""
    x, y = evidence.before.flatten(0, 1), evidence.after.flatten(0, 1)
    step = -(-len(x) // SPARSE_ROWS)
    x, y = x[::step].double(), y[::step].double()
    used = x.ne(0).any(1)
    return x[used], y[used]


def _pair_channels(
    x: Tensor, y: Tensor, shape: Geometry, eps: float
) -> tuple[Tensor, Tensor] | None:
    """Return the two channels in which each pair comes out, `[n]` each; None if there are none."""
    energy_in, energy_out = x.square(), y.square()
    size = energy_in.sum(1, keepdim=True).clamp_min(1e-300)  # rows count alike
    energy_in, energy_out = energy_in / size, energy_out / size
    total, rest = energy_in.sum(), energy_in[:, shape.rest_read].sum()
    if total <= rest:
        return None
    of_pair = energy_in[:, shape.cos_read].sum(1)  # [R, n]
    if bool(((of_pair > SPARSE).sum(1) <= 1).all()) and bool((of_pair.amax(1) > 1 - SPARSE).any()):
        return _excited_channels(energy_out, of_pair, shape)
    gain = (energy_out.sum() - rest) / (total - rest)
    chosen = torch.linspace(0, len(x) - 1, min(len(x), ROWS)).long()
    energy_out, wanted = energy_out[chosen], gain * of_pair[chosen]
    one, other = torch.triu_indices(y.shape[1], y.shape[1], 1)
    offered = energy_out[:, one] + energy_out[:, other]  # [R, D (D - 1) / 2]
    scale = wanted.square().sum(0)
    distances = offered.square().sum(0)[:, None] - 2 * (offered.mT @ wanted) + scale
    allowed = (ROUNDINGS * eps) ** 2 * scale.clamp_min(float(scale.max()) / 4)
    free = torch.ones(len(one), dtype=torch.bool)
    found = torch.empty((2, len(scale)), dtype=torch.int64)
    for pair in scale.argsort(descending=True).tolist():
        if not scale[pair] and bool(free[(own := _index_of(shape.write[:, pair], y.shape[1]))]):
            best = own  # nothing shows where this pair comes out
        else:
            best = int(distances[:, pair].masked_fill(~free, torch.inf).argmin())
        if distances[best, pair] > allowed[pair] or not free[best]:
            return None
        found[:, pair] = channels = torch.stack((one[best], other[best]))
        free &= ~(torch.isin(one, channels) | torch.isin(other, channels))
    return found[0], found[1]


def _excited_channels(
    energy_out: Tensor, of_pair: Tensor, shape: Geometry
) -> tuple[Tensor, Tensor] | None:
    """Return the channels of each pair if each row excites one pair at most: `[n]` and `[n]`.

    Args:
        energy_out: `[R, D]`.
        of_pair: energy that went into each pair, `[R, n]`, rows of energy 1.
        shape: the pairs before the channels are reordered.
    """
    energy = energy_out.sum(0)
    share, pair = ((energy_out.mT @ of_pair) / energy[:, None].clamp_min(1e-300)).max(1)
    if bool(((share > SPARSE) & (share < 1 - SPARSE)).any()):
        return None
    members: list[list[int]] = [[] for _ in range(of_pair.shape[1])]
    for channel in (share > 0.5).nonzero().flatten().tolist():
        members[int(pair[channel])].append(channel)
    silent = dict.fromkeys((energy == 0).nonzero().flatten().tolist())
    for own, found in zip(shape.write.mT.tolist(), members, strict=True):
        for channel in own:  # nothing shows where it comes out
            if len(found) < 2 and channel in silent:
                found.append(channel)
                del silent[channel]
    for found in members:
        while len(found) < 2 and silent:
            found.append(silent.popitem()[0])
    if any(len(found) != 2 for found in members):
        return None
    first, second = torch.tensor(members).mT
    return first, second


def _index_of(channels: Tensor, count: int) -> int:
    """Return the index of two channels among all pairs of `count` channels, in their order."""
    first, second = int(channels.min()), int(channels.max())
    return first * (2 * count - first - 1) // 2 + second - first - 1


def _order_errors(evidence: RotationEvidence, call: RotaryCall) -> Tensor:
    """Return how badly the angles of each pair fit, `[n]`.

    They are compared with those of the call, the same twice or reversed, or else with a line.
    """
    table = evidence.angle_table(call)
    gain = torch.tensor(measure_gain(table) or 0.0, dtype=torch.float64)  # decides no order
    angle = predict(call, table.index).angle()
    right = (gain.square() * table.weights).sum(0).clamp_min(1e-300)
    errors = []
    for times in (1, 2, -1):
        difference = torch.view_as_real(table.z - torch.polar(gain, times * angle))
        errors.append((difference.square().sum(-1) * table.weights).sum(0) / right)
    error = torch.stack(errors).amin(0).sqrt()
    lines = line_residuals(table, call)
    return torch.where(error <= 10 * evidence.tolerance, 0, lines.where(lines.isfinite(), error))
