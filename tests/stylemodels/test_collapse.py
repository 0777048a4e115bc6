"""Whether a generator still looks at what it is shown."""

from __future__ import annotations

import pytest
import torch

from stylemodels.collapse import concerns, variety


def test_drawings_that_differ_as_their_models_do_have_the_variety_one():
    shown = torch.rand(3, 3, 8, 8)
    assert variety(shown, shown) == pytest.approx(1)
    assert variety(0.25 * shown + 0.5, shown) == pytest.approx(0.25), "what they have in common does not count"


def test_drawings_that_are_all_the_same_have_none():
    shown = torch.rand(3, 3, 8, 8)
    assert variety(shown[:1].expand(3, -1, -1, -1), shown) == 0


def test_drawings_by_two_things_count_by_one_at_a_time():
    """Two photos, each with three paintings: here it is the painting alone that decides."""
    photos, paintings = torch.rand(2, 3, 8, 8), torch.rand(3, 3, 8, 8)
    drawn = paintings.expand(2, 3, 3, 8, 8)
    assert variety(drawn, photos) == 0
    assert variety(drawn.transpose(0, 1), paintings) == pytest.approx(1)


def test_of_models_that_are_all_the_same_nothing_bad_can_be_said():
    same = torch.rand(1, 3, 8, 8).expand(2, -1, -1, -1)
    assert variety(same, same) == 1


def test_only_a_variety_that_is_next_to_none_is_a_concern():
    fine = {"style_loss": 0.0, "validation_content_variety": 0.4, "validation_style_variety": 0.05}
    assert concerns(fine) == []
    (told,) = concerns({**fine, "validation_style_variety": 0.001})
    assert told.startswith("validation_style_variety is 0.001, below 0.02: what is drawn is nearly the same")
    assert "lower learning rate" in told
