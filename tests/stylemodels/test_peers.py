"""The peer-regularised layer against the dense matrix of all positions, and what must not matter to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, dropout, softplus
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylemodels.method import Style
from stylemodels.peers import Code, Distance, Head, PeerRegularised, Peers, Shares, nearest, pooled, rows, shares_of

CONTENT, STYLE = 8, 16


def code(height: int, width: int, seed: int, count: int = 1) -> Code:
    """Random codes in float64, the first half of the style the same at every place."""
    random = torch.Generator().manual_seed(seed)
    draw = [
        torch.randn(count, channels, height, width, generator=random, dtype=torch.float64)
        for channels in (CONTENT, STYLE // 2, STYLE // 2)
    ]
    shared = draw[1].mean((2, 3), keepdim=True).expand_as(draw[1])
    return Code(draw[0], torch.cat([shared, draw[2]], 1))


def layer(knn: int = 5, distance: Distance = "euclidean", chunk_bytes: int | None = None) -> PeerRegularised:
    """Finished, in float64, with running statistics that are not the initial ones."""
    torch.manual_seed(3)
    made = PeerRegularised(CONTENT, STYLE, knn=knn, distance=distance, chunk_bytes=chunk_bytes).double()
    for _ in range(3):
        made(code(6, 6, 90), code(5, 7, 91))
    return made.eval()


def dense_stage(head: Head, queries: Tensor, keys: Tensor, values: Tensor, distances: Tensor, knn: int) -> Tensor:
    """As the authors' code does it: all n x m logits, -1e9 on what is further than the K-th nearest."""
    asked, offered = head(queries, keys)
    logits = softplus(asked[:, None] + offered[None])
    far = distances > distances.kthvalue(knn, dim=1, keepdim=True).values
    return (logits - 1e9 * far).softmax(1) @ values


def dense(made: PeerRegularised, own: Code, given: Code) -> Code:
    between = torch.cdist if made.distance == "euclidean" else cosine_distance
    q, k, v = rows(own.content), rows(given.content), rows(given.style)
    style = dense_stage(made.content_head, q, k, v, between(q, k), made.knn)
    assert made.style_head is not None
    content = dense_stage(made.style_head, style, v, k, between(style, v), made.knn)
    height, width = own.content.shape[-2:]
    return Code(*(part.T.reshape(1, -1, height, width) for part in (content, style)))


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    return 1 - cosine_similarity(first[:, None], second[None], dim=2)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_gathered_form_is_the_dense_one(distance: Distance):
    """Check 3: on 7 x 7 against 6 x 5."""
    made, own, given = layer(distance=distance), code(7, 7, 0), code(6, 5, 1)
    for found, expected in zip(made(own, given), dense(made, own, given), strict=True):
        assert_close(found, expected, atol=1e-5, rtol=0)


def test_weights_of_the_neighbours_sum_to_one_and_there_are_k_of_them():
    """Check 3."""
    _, graph = layer().recombined(code(7, 7, 0), code(6, 5, 1))
    assert graph.weight.shape == (49, 5)
    assert (graph.weight > 0).all()
    assert_close(graph.weight.sum(1), torch.ones(49, dtype=torch.float64))
    assert all(len(set(neighbours)) == 5 for neighbours in graph.neighbours.tolist())


@pytest.mark.parametrize("chunk_bytes", [1, 500, 4096])
def test_the_chunk_s_size_does_not_change_the_result(chunk_bytes: int):
    """Check 3."""
    for found, expected in zip(
        layer(chunk_bytes=chunk_bytes)(code(7, 7, 0), code(6, 5, 1)), layer()(code(7, 7, 0), code(6, 5, 1)), strict=True
    ):
        assert_close(found, expected, atol=1e-12, rtol=0)


class Largest(TorchDispatchMode):
    """Remembers the most numbers that one tensor held."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))])
        return result


def test_only_a_chunk_of_the_distances_and_of_the_neighbours_is_held():
    """Of 400 x 400 distances; the largest of all are the 400 rows of style."""
    own, given = code(20, 20, 0), code(20, 20, 1)
    with Largest() as bounded:
        layer(chunk_bytes=20_000)(own, given)
    with Largest() as whole:
        layer()(own, given)
    assert whole.numbers == 400 * 400
    assert bounded.numbers == 400 * STYLE


def test_the_order_of_style_positions_does_not_matter_and_that_of_content_positions_stays():
    """Check 4."""
    made, own, given = layer(), code(7, 7, 0), code(6, 5, 1)
    final = made(own, given)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    shuffled = Code(*(part.flatten(2)[..., order].unflatten(2, (6, 5)) for part in given))
    for found, expected in zip(made(own, shuffled), final, strict=True):
        assert_close(found, expected)
    order = torch.randperm(49, generator=torch.Generator().manual_seed(6))
    moved = Code(*(part.flatten(2)[..., order].unflatten(2, (7, 7)) for part in own))
    for found, expected in zip(made(moved, given), final, strict=True):
        assert_close(found, expected.flatten(2)[..., order].unflatten(2, (7, 7)))


def test_the_content_s_own_style_has_no_influence():
    """Check 4."""
    made, own, given = layer(), code(7, 7, 0), code(6, 5, 1)
    for found, expected in zip(
        made(own._replace(style=torch.randn_like(own.style)), given), made(own, given), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_of_two_is_two_batches_of_one(training: bool):
    """Check 4; in training too, where batch norms take the statistics of one picture at a time."""
    made, own, given = layer().train(training), code(7, 7, 0, count=2), code(6, 5, 1, count=2)
    made.dropout.p = 0.0
    both = made(own, given)
    for n in range(2):
        one = made(Code(*(part[n : n + 1] for part in own)), Code(*(part[n : n + 1] for part in given)))
        for found, expected in zip(one, both, strict=True):
            assert_close(found, expected[n : n + 1])


def test_in_training_scores_are_dropped_before_they_become_weights():
    """A score that is dropped is 0, its weight is not: softplus comes after."""
    made = layer().train()
    queries, peers = torch.randn(49, CONTENT, dtype=torch.float64), torch.randn(30, CONTENT, dtype=torch.float64)
    asked, offered = made.content_head(queries, peers)
    torch.manual_seed(4)
    graph = made.graph(made.content_head, queries, peers)
    torch.manual_seed(4)
    kept = dropout(torch.ones(49, 5, dtype=torch.float64), 0.2)
    assert (kept == 0).any()
    expected = softplus(kept * (asked[:, None] + offered[graph.neighbours])).softmax(1)
    assert_close(graph.weight, expected)


def test_in_training_queries_and_peers_have_batch_statistics_of_their_own():
    head, queries = layer().train().content_head, torch.randn(9, CONTENT, dtype=torch.float64)
    first, second = (head(queries, torch.randn(7, CONTENT, dtype=torch.float64) + n)[0] for n in range(2))
    assert torch.equal(first, second)


def test_the_global_half_of_the_new_style_is_the_style_s():
    """Check 5."""
    given = code(6, 5, 1)
    final = layer()(code(7, 7, 0), given)
    vector = given.style[:, : STYLE // 2, :1, :1]
    assert_close(final.style[:, : STYLE // 2], vector.expand(-1, -1, 7, 7), atol=1e-6, rtol=0)


def test_with_one_neighbour_a_picture_of_its_own_style_stays_as_it_is():
    """Check 5: exactly."""
    own = code(7, 7, 0)
    assert all(torch.equal(found, given) for found, given in zip(layer(knn=1)(own, own), own, strict=True))


def test_more_neighbours_than_positions_are_refused():
    """Check 11."""
    with pytest.raises(ValueError, match="knn: 5 neighbours are wanted, the style has 4 positions"):
        layer()(code(7, 7, 0), code(2, 2, 1))


def test_a_vector_of_zeros_has_neighbours_by_cosine_too():
    peers = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert nearest(torch.tensor([[1.0, 0.0]]), peers, 3, distance="cosine").tolist() == [[2, 1, 0]]
    assert nearest(torch.zeros(1, 2), peers, 3, distance="cosine").sort().values.tolist() == [[0, 1, 2]]


def test_the_layer_is_in_float32_under_autocast():
    made = PeerRegularised(CONTENT, STYLE, knn=5).eval()
    own, given = (Code(*(part.float() for part in code(7, 7, seed))) for seed in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(own, given)
    assert all(torch.equal(low, full) for low, full in zip(found, made(own, given), strict=True))


def test_no_gradient_comes_from_the_choice_of_neighbours_but_from_the_scores():
    made, own, given = layer().train(), code(7, 7, 0), code(6, 5, 1)
    made.dropout.p = 0.0
    sum(part.square().sum() for part in made(own, given)).backward()
    assert all(p.grad is not None for p in made.parameters())
    assert not nearest(own.content[0, 0].requires_grad_(), given.content[0, 0, :, :1].repeat(1, 7), 2).requires_grad


def peers_of(seed: int, height: int = 6, width: int = 5, weight: float = 0.5, mask: Tensor | None = None) -> Peers:
    image = torch.rand(1, 3, 4 * height, 4 * width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Peers(code(height, width, seed), Style(image, weight, mask))


def test_equal_shares_of_pooled_styles_are_one_style_with_the_positions_of_both():
    own, styles = code(7, 7, 0), [peers_of(1), peers_of(2, 4, 9)]
    made = layer()
    final, _ = made.mixture(own, styles, pool=True)
    for found, expected in zip(final, made(own, pooled([peers.code for peers in styles])), strict=True):
        assert_close(found, expected)


def test_a_style_without_a_share_has_no_influence():
    made, own, one = layer(), code(7, 7, 0), peers_of(1, weight=1.0)
    alone, colours = made.mixture(own, [one], pool=True)
    for pool in (True, False):
        both, matches = made.mixture(own, [one, peers_of(2, weight=0.0)], pool=pool)
        assert_close(matches, colours)
        for found, expected in zip(both, alone, strict=True):
            assert_close(found, expected)


@pytest.mark.parametrize("pool", [True, False])
def test_masks_give_every_style_its_part_of_the_picture(pool: bool):
    made, own = layer(), code(8, 8, 0)
    left = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    left[..., :16] = 1
    styles = [peers_of(1, mask=left), peers_of(2, mask=1 - left)]
    both, _ = made.mixture(own, styles, pool=pool)
    for place, peers in ((slice(0, 4), styles[0]), (slice(4, 8), styles[1])):
        assert_close(both.style[..., place], made(own, peers.code).style[..., place])


def test_shares_scale_the_attention_of_the_neighbours_that_are_found():
    own, styles = code(2, 2, 0), [peers_of(1, weight=0.8), peers_of(2, weight=0.2)]
    shares = shares_of(own, [peers.code for peers in styles], [peers.style for peers in styles])
    assert shares.share.tolist() == [[0.8, 0.2]] * 4
    assert shares.owner.tolist() == [0] * 30 + [1] * 30
    made, both = layer(), pooled([peers.code for peers in styles])
    _, plain = made.recombined(own, both)
    _, scaled = made.recombined(own, both, shares)
    factors = torch.tensor([0.8, 0.2], dtype=torch.float64)[shares.owner[plain.neighbours]]
    expected = plain.weight * factors
    assert_close(scaled.weight, expected / expected.sum(1, keepdim=True))


def test_colours_are_those_of_the_style_at_the_neighbours():
    red = Peers(code(6, 5, 1), Style(torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 24, 20)))
    _, matches = layer().mixture(code(7, 7, 0), [red], pool=True)
    assert_close(matches, torch.tensor([1.0, 0, 0]).to(matches)[None, :, None, None].expand(1, 3, 7, 7))


def test_a_forbidden_style_is_passed_over_even_where_it_is_nearest():
    shares = Shares(torch.tensor([[0.0, 1.0]]), torch.tensor([0, 1, 1]))
    peers = torch.tensor([[0.0], [3.0], [2.0]])
    assert nearest(torch.zeros(1, 1), peers, 2, shares=shares).tolist() == [[2, 1]]
