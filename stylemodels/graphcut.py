"""Labels for the positions of a grid: those of least energy, found by graph cuts.

    E(f) = sum over positions p of D_p(f_p)  +  sum over neighbours (p, q) of V(f_p, f_q)

Alpha-expansion goes through the labels: who takes label a, and who keeps what he has? That question with two answers
is a minimal cut, solved exactly by SciPy's maximum flow. With two labels the result is the minimum; with more and
V a metric, no single expansion can improve it, and it is at most twice the minimum for the Potts model.

A move builds one sparse graph: 0.1 s for a whole minimisation over 128 x 128 positions and three labels, 10 s over
1024 x 1024, and about 400 bytes a position (measured). SciPy's capacities are int32: floats are scaled and rounded, the
coarser the larger the grid.
Sources: Boykov, Veksler & Zabih 2001 (fast approximate energy minimization via graph cuts), sections 5 and 6;
Kolmogorov & Zabih 2004 (what energy functions can be minimized via graph cuts), section 4, for the capacities.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

LARGEST = 2**31 - 2  # all capacities together, as integers
LEAST_GAIN = 1e-9  # what a move must save: rounded capacities could go in circles


class Neighbours(NamedTuple):
    """Pairs of positions, each once."""

    first: Integers  # (E,)
    second: Integers  # (E,)


class Labelling(NamedTuple):
    """What a minimisation found."""

    labels: Integers  # (P,)
    energies: tuple[float, ...]  # at the start, and after every cycle over the labels


def grid(height: int, width: int) -> Neighbours:
    """Left and right, above and below, for positions in raster order."""
    index = np.arange(height * width).reshape(height, width)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    return Neighbours(first, second)


def chain(count: int) -> Neighbours:
    """Every position and the next one."""
    index = np.arange(count)
    return Neighbours(index[:-1], index[1:])


def potts(labels: int, weight: float) -> Floats:
    """V(a, b) = weight where a and b differ: (K, K)."""
    return weight * (1.0 - np.eye(labels))


def linear(labels: int, weight: float) -> Floats:
    """V(a, b) = weight |a - b|: (K, K)."""
    index = np.arange(labels)
    steps: Floats = np.abs(index[:, None] - index).astype(np.float64)
    return weight * steps


def energy(data: Floats, labels: Integers, neighbours: Neighbours, pairwise: Floats) -> float:
    """E of `labels` (P,): data (P, K), pairwise (K, K)."""
    unary = np.take_along_axis(data, labels[:, None], axis=1).sum()
    return float(unary + pairwise[labels[neighbours.first], labels[neighbours.second]].sum())


def alpha_expansion(data: Floats, neighbours: Neighbours, pairwise: Floats, *, max_cycles: int = 0) -> Labelling:
    """Labels of low energy, from each position's own best; the energy never rises on the way.

    data: (P, K), finite. pairwise: (K, K), a metric. max_cycles: each tries every label once; 0 goes on until none
    helps.

    Raises ValueError for costs that are no numbers, and for a V that is no metric: such a cut has no answer.
    """
    check(data, pairwise)
    labels = data.argmin(1)
    energies = [energy(data, labels, neighbours, pairwise)]
    while max_cycles == 0 or len(energies) <= max_cycles:
        best = energies[-1]
        for label in range(data.shape[1]):
            moved = expanded(data, labels, neighbours, pairwise, label)
            reached = energy(data, moved, neighbours, pairwise)
            if reached < best - LEAST_GAIN:
                labels, best = moved, reached
        if best == energies[-1]:
            break
        energies.append(best)
    return Labelling(labels, tuple(energies))


def expanded(data: Floats, labels: Integers, neighbours: Neighbours, pairwise: Floats, label: int) -> Integers:
    """The best labelling in which everyone keeps his label or takes `label`."""
    first, second = labels[neighbours.first], labels[neighbours.second]
    # Of an edge's four cases the one in which both take the label costs nothing.
    both_keep, second_takes, first_takes = pairwise[first, second], pairwise[first, label], pairwise[label, second]
    count = len(labels)
    gain = data[:, label] - np.take_along_axis(data, labels[:, None], axis=1)[:, 0]
    gain += np.bincount(neighbours.first, first_takes - both_keep, count)
    gain -= np.bincount(neighbours.second, first_takes, count)
    takes = sink_side(gain, neighbours, np.maximum(second_takes + first_takes - both_keep, 0.0))
    return np.where(takes, label, labels)


def sink_side(terminal: Floats, neighbours: Neighbours, capacity: Floats) -> NDArray[np.bool_]:
    """Who is cut off from the source in a minimal cut: (P,).

    terminal: (P,), the capacity of source -> p where positive, of p -> sink where negative. capacity: (E,), of
    first -> second.
    """
    count = len(terminal)
    source, sink = count, count + 1
    total = np.abs(terminal).sum() + capacity.sum()
    if total == 0:
        return np.zeros(count, dtype=np.bool_)
    scale = 0.9 * LARGEST / total
    above, below = np.flatnonzero(terminal > 0), np.flatnonzero(terminal < 0)
    tails = np.concatenate([neighbours.first, np.full(len(above), source), below])
    heads = np.concatenate([neighbours.second, above, np.full(len(below), sink)])
    weights = np.rint(scale * np.concatenate([capacity, terminal[above], -terminal[below]])).astype(np.int32)
    graph = csr_matrix((weights, (tails, heads)), shape=(count + 2, count + 2))
    residual = graph - maximum_flow(graph, source, sink).flow
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    cut_off = np.ones(count + 2, dtype=np.bool_)
    cut_off[reached] = False
    return cut_off[:count]


def check(data: Floats, pairwise: Floats) -> None:
    """Raise ValueError unless the costs are finite and V is a metric."""
    if not np.isfinite(data).all():
        raise ValueError("data: some costs are not finite")
    detours = (pairwise[:, :, None] + pairwise[None]).min(1)
    symmetric = np.array_equal(pairwise, pairwise.T) and not pairwise.diagonal().any() and pairwise.min() >= 0
    if not symmetric or (pairwise > detours + LEAST_GAIN).any():
        raise ValueError("pairwise: these are no distances between labels: some detour is shorter")
