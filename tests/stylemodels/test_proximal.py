"""Terms that are added to a finished solver's loss; check 11 of paper 11."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylemodels.matting import MattingLaplacian
from stylemodels.proximal import SIGMA, AddedTerms, Previous, TermControls, VideoMemory
from tests.stylemodels.toy import paintings, photos

CONTENT, MOVED = photos(1, 24).double(), paintings(1, 24).double()


def settled(previous: Previous | None = None, moved: Tensor = MOVED, **controls: object) -> Tensor:
    return AddedTerms(CONTENT, TermControls(**controls), previous)(moved, CONTENT)


def test_without_terms_a_step_is_left_as_it_is():
    assert settled() is MOVED
    assert settled(Previous(CONTENT, CONTENT)) is MOVED
    assert settled(video_lambda=2.0) is MOVED, "the first frame has none before it"


def test_check_11_the_matting_energy_falls_with_lambda():
    matting = MattingLaplacian(CONTENT, eps=1e-4)
    weights = (0.0, 0.05, 1.0, 10.0)
    energies = [float(matting.energy(settled(photo_lambda=weight, photo_cg_iters=200))) for weight in weights]
    assert energies == sorted(energies, reverse=True)
    assert energies[1] < 0.8 * energies[0]
    assert energies[3] < 0.1 * energies[0]


def test_the_implicit_picture_balances_all_terms():
    previous = Previous(CONTENT + 0.02, paintings(1, 24, seed=3).double())
    found = settled(previous, photo_lambda=0.5, video_lambda=2.0, photo_cg_iters=300)
    reliable = torch.exp(-(CONTENT - previous.content).square().sum(1, keepdim=True) / SIGMA**2)
    matting = MattingLaplacian(CONTENT, eps=1e-4)
    left = found + 0.5 * matting(found) + 2.0 * reliable * found
    assert_close(left, MOVED + 2.0 * reliable * previous.output, rtol=1e-6, atol=1e-6)


def test_the_explicit_form_is_one_gradient_step():
    expected = MOVED - 2 * 0.05 * MattingLaplacian(CONTENT, eps=1e-4)(CONTENT)
    assert_close(settled(photo_lambda=0.05, photo_mode="explicit"), expected)


def test_check_12_an_explicit_lambda_above_its_bound_is_refused():
    with pytest.raises(ValueError, match=r"photo_lambda: 0.12 .* below 0.111 .* implicit"):
        settled(photo_lambda=0.12, photo_mode="explicit")


def test_a_pixel_that_did_not_change_is_drawn_towards_the_picture_before():
    before = CONTENT.clone()
    before[..., 12:] += 1.0
    drawn_before = torch.rand_like(CONTENT)
    found = settled(Previous(before, drawn_before), video_lambda=3.0)
    assert_close(found[..., :12], (MOVED + 3 * drawn_before)[..., :12] / 4)
    assert torch.equal(found[..., 12:], MOVED[..., 12:])


def test_with_a_pan_the_picture_before_comes_along():
    scene, drawn = photos(1, 64).double(), paintings(1, 64).double()
    before, now = slice(8, 48), slice(4, 44)  # what was at 8 is at 12
    previous = Previous(scene[..., before], drawn[..., before])
    flow = AddedTerms(scene[..., now], TermControls(video_lambda=100.0, video_flow="shift"), previous)
    moved = torch.zeros_like(previous.output)
    assert_close(flow(moved, moved)[..., 4:], 100 / 101 * drawn[..., now][..., 4:])


def test_a_memory_goes_on_and_serves_one_video_at_a_time():
    memory, other = VideoMemory(), VideoMemory()
    assert memory.state() == {}
    with memory.of_one_video():
        memory.keep(CONTENT, MOVED)
        other.restore(memory.state())
        with pytest.raises(ValueError, match="passes: "), memory.of_one_video():
            pass
    assert memory.previous is None
    assert other.previous is not None
    assert torch.equal(other.previous.output, MOVED)
    other.restore({})
    assert other.previous is None
