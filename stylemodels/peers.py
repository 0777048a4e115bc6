"""The two-stage peer-regularised layer: a picture's code rebuilt from the positions of another picture's.

Every position is a node; its peers are the positions of the style picture, its neighbours the K nearest of them. A
stage gives each position the mean of its neighbours' values by attention:

    e_ij = softplus(a(q_i) + b(k_j)),  alpha_i = softmax over the neighbours,  out_i = sum_j alpha_ij v_j

    style recombination     (z_out)_S   = stage(q = (z_i)_C,   k = (z_t)_C, v = (z_t)_S)
    content recombination   (z_final)_C = stage(q = (z_out)_S, k = (z_t)_S, v = (z_t)_C)
    output                  z_final = [(z_final)_C, (z_out)_S]

Nothing of it mixes pictures of a batch, the statistics of its batch norms neither. Everything is in float32, also under
autocast: distances that cancel are of no use in half precision. Neighbours are looked for a chunk of positions at a
time: of the n x m distances no more are held than `chunk_bytes` have room for, then as much again of neighbours' values
without gradient. What stays are n x K indices and weights.

Source: Svoboda et al. 2020 (arXiv:1906.02913), section 3.2; graph attention of Svoboda et al. 2019 (arXiv:1806.00088).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize, softplus

from stylemodels.features import at_least_float32
from stylemodels.method import Style
from stylemodels.mixing import mixed, share_of

Distance = Literal["euclidean", "cosine"]
FLOAT_BYTES = 4


class Code(NamedTuple):
    """The latent code of pictures: z = [(z)_C, (z)_S]."""

    content: Tensor  # (N, C, h, w)
    style: Tensor  # (N, S, h, w)

    def detach(self) -> Code:
        """Without gradient: sg(z)."""
        return Code(self.content.detach(), self.style.detach())

    def joined(self) -> Tensor:
        """(N, C + S, h, w)."""
        return torch.cat(self, dim=1)

    def lerp(self, end: Code, weight: float) -> Code:
        """On the straight way to `end`."""
        return Code(self.content.lerp(end.content, weight), self.style.lerp(end.style, weight))


class Shares(NamedTuple):
    """How much of a position belongs to which of several styles, whose positions are peers of one graph."""

    share: Tensor  # (n, styles), rows sum to 1; where it is 0 the style's positions are no peers
    owner: Tensor  # (m,), int64: whose a peer is


class Graph(NamedTuple):
    """The neighbours of every position."""

    neighbours: Tensor  # (n, K), int64: which peers
    weight: Tensor  # (n, K), rows sum to 1: alpha


class Peers(NamedTuple):
    """What a style picture offers."""

    code: Code  # (1, ., h, w)
    style: Style

    def colours(self) -> Tensor:
        """The picture's mean colour at each position: (h*w, 3)."""
        return rows(interpolate(self.style.image, size=self.code.content.shape[-2:], mode="area"))


def pooled(codes: Sequence[Code]) -> Code:
    """The positions of several pictures (1, C, h, w) as those of one, a single row high."""
    return Code(*(torch.cat([part.flatten(2) for part in parts], -1)[:, :, None] for parts in zip(*codes, strict=True)))


def shares_of(own: Code, codes: Sequence[Code], styles: Sequence[Style]) -> Shares:
    """Whose the positions of `own` are, by weight or mask, and whose the pooled positions of `codes`."""
    like = own.content[:, :1]
    share = torch.stack([(like.new_ones(like.shape) * share_of(style, like)).flatten() for style in styles], dim=1)
    counts = torch.tensor([code.content[0, 0].numel() for code in codes], device=like.device)
    return Shares(share, torch.arange(len(codes), device=like.device).repeat_interleave(counts))


def rows(features: Tensor) -> Tensor:
    """One picture's (1, C, h, w) -> (h*w, C)."""
    return at_least_float32(features)[0].flatten(1).T.contiguous()


@torch.no_grad()
def nearest(
    queries: Tensor,
    peers: Tensor,
    count: int,
    *,
    distance: Distance = "euclidean",
    chunk_bytes: int | None = None,
    shares: Shares | None = None,
) -> Tensor:
    """Indices of the `count` nearest of `peers` (m, d) for every one of `queries` (n, d): (n, count), int64.

    chunk_bytes: most that the distances of one chunk of queries may take (with shares, about as much again); None: all
    at once. cosine takes a vector of zeros to be at right angles to all others. Raises ValueError below `count` peers.
    """
    if peers.shape[0] < count:
        raise ValueError(f"knn: {count} neighbours are wanted, the style has {peers.shape[0]} positions")
    if distance == "cosine":
        queries, peers = normalize(queries, eps=1e-8), normalize(peers, eps=1e-8)
        squares = peers.new_zeros(peers.shape[0])
    else:
        squares = peers.square().sum(1)
    shared = None if shares is None else chunks(shares.share, peers.shape[0], chunk_bytes)
    found = []
    for number, some in enumerate(chunks(queries, peers.shape[0], chunk_bytes)):
        # |q|^2 is the same for a whole row: it does not change the order
        ranks = torch.addmm(squares, some, peers.T, alpha=-2)
        if shares is not None and shared is not None:
            ranks.masked_fill_((shared[number] == 0)[:, shares.owner], torch.inf)
        found.append(ranks.topk(count, largest=False).indices)
    return torch.cat(found)


def chunks(values: Tensor, width: int, chunk_bytes: int | None) -> Sequence[Tensor]:
    """The rows of `values`, so many at a time that `width` numbers for each fit into `chunk_bytes`."""
    if chunk_bytes is None:
        return [values]
    return torch.split(values, max(1, chunk_bytes // (FLOAT_BYTES * width)))


class Head(nn.Module):
    """The scores of attention: a for those that ask, b for their peers, from one network for both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.mlp = nn.Sequential(
            nn.Linear(channels, half),
            nn.BatchNorm1d(half),
            nn.ReLU(),
            nn.Linear(half, quarter),
            nn.BatchNorm1d(quarter),
            nn.ReLU(),
        )
        self.query = nn.Linear(quarter, 1)
        self.peer = nn.Linear(quarter, 1)

    def forward(self, queries: Tensor, peers: Tensor) -> tuple[Tensor, Tensor]:
        """(n, channels) and (m, channels) -> (n,) and (m,); in training each with batch statistics of its own."""
        return self.query(self.mlp(queries))[:, 0], self.peer(self.mlp(peers))[:, 0]


class PeerRegularised(nn.Module):
    """T: the code of a content and of a style picture to the code that is decoded."""

    def __init__(
        self,
        content_channels: int,
        style_channels: int,
        *,
        knn: int,
        distance: Distance = "euclidean",
        dropout: float = 0.2,
        two_stages: bool = True,
        chunk_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.knn, self.distance, self.chunk_bytes = knn, distance, chunk_bytes
        self.content_head = Head(content_channels)
        self.style_head = Head(style_channels) if two_stages else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, own: Code, given: Code) -> Code:
        """Picture n of `own` (N, ., h, w) with picture n of `given` (N, ., h', w'): z_final, of the size of `own`."""
        parts = [
            self.recombined(Code(*(part[n : n + 1] for part in own)), Code(*(part[n : n + 1] for part in given)))[0]
            for n in range(own.content.shape[0])
        ]
        return Code(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def recombined(self, own: Code, given: Code, shares: Shares | None = None) -> tuple[Code, Graph]:
        """z_final of one picture, and the graph of its first stage. Nothing of it depends on the style of `own`.

        own: (1, ., h, w), n = h*w. given: (1, ., h', w'), m = h'*w', from K positions on; else ValueError.
        """
        with torch.autocast(own.content.device.type, enabled=False):
            content, peer_content, peer_style = rows(own.content), rows(given.content), rows(given.style)
            first = self.graph(self.content_head, content, peer_content, shares)
            style = self.gathered(first, peer_style)
            if self.style_head is not None:
                second = self.graph(self.style_head, style, peer_style, shares)
                content = self.gathered(second, peer_content)
            height, width = own.content.shape[-2:]
            final = Code(*(part.T.reshape(1, -1, height, width) for part in (content, style)))
        return final, first

    def mixture(self, own: Code, styles: Sequence[Peers], *, pool: bool) -> tuple[Code, Tensor]:
        """z_final of several styles, and the colours (1, 3, h, w) at the neighbours of every position.

        pool: the positions of all are peers of one graph, and shares scale attention. Else the codes are blended.
        """
        shares = [peers.style for peers in styles]
        if pool and len(styles) > 1:
            codes = [peers.code for peers in styles]
            final, graph = self.recombined(own, pooled(codes), shares_of(own, codes, shares))
            return final, self.matched(own, graph, torch.cat([peers.colours() for peers in styles]))
        parts = [self.recombined(own, peers.code) for peers in styles]
        matches = [self.matched(own, graph, of.colours()) for (_, graph), of in zip(parts, styles, strict=True)]
        blended = Code(*(mixed(codes, shares) for codes in zip(*(final for final, _ in parts), strict=True)))
        return blended, mixed(matches, shares)

    def matched(self, own: Code, graph: Graph, colours: Tensor) -> Tensor:
        """(m, 3) -> (1, 3, h, w), of the size of `own`."""
        return self.gathered(graph, colours).T.reshape(1, 3, *own.content.shape[-2:])

    def graph(self, head: Head, queries: Tensor, peers: Tensor, shares: Shares | None = None) -> Graph:
        """Neighbours of `queries` (n, d) among `peers` (m, d) and their weights; shares scale them."""
        index = nearest(queries, peers, self.knn, distance=self.distance, chunk_bytes=self.chunk_bytes, shares=shares)
        asked, offered = head(queries, peers)
        scores = softplus(self.dropout(asked[:, None] + offered[index]))
        if shares is not None:
            scores = scores + shares.share.gather(1, shares.owner[index]).log()
        return Graph(index, scores.softmax(1))

    def gathered(self, graph: Graph, values: Tensor) -> Tensor:
        """Every position's mean of its neighbours' `values` (m, v): (n, v)."""
        width = graph.neighbours.shape[1] * values.shape[1]
        parts = zip(*(chunks(part, width, self.chunk_bytes) for part in graph), strict=True)
        return torch.cat([(weight[..., None] * values[index]).sum(1) for index, weight in parts])
