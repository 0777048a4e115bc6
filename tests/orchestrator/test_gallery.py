"""Preview pictures as the page lays them out."""

from __future__ import annotations

from orchestrator.store.tables import Sample
from orchestrator.web.charts import importance
from orchestrator.web.gallery import gallery, in_order, thumbnail


def sample(step: int, name: str) -> Sample:
    return Sample(job_id="job_1", step=step, name=name, attempt=1, width=8, height=8, key="")


def test_rows_are_steps_newest_first_and_columns_what_is_drawn_anew():
    names = ("style-1", "content-1", "result-1-1")
    made = gallery([sample(step, name) for step in (0, 50, 100) for name in names])
    assert made is not None
    assert [step for step, _ in made.rows] == [100, 50, 0]
    assert [(column.name, column.inputs) for column in made.columns] == [("result-1-1", ("content-1", "style-1"))]


def test_a_result_shows_what_it_was_made_from_where_that_is_there():
    made = gallery([sample(1, name) for name in ("content-2", "result-2", "result-3", "start-2")])
    assert made is not None
    assert [(c.name, c.inputs) for c in made.columns] == [
        ("result-2", ("content-2",)), ("result-3", ()), ("start-2", ("content-2",)),
    ]  # fmt: skip


def test_a_step_may_lack_a_picture():
    made = gallery([sample(1, "result-1"), sample(2, "result-1"), sample(2, "result-2")])
    assert made is not None
    assert made.rows == ((2, frozenset({"result-1", "result-2"})), (1, frozenset({"result-1"})))


def test_no_pictures_no_gallery():
    assert gallery([]) is None


def test_names_are_ordered_by_their_numbers():
    assert in_order(["result-10", "result-2-1", "result-2", "content-1"]) == [
        "content-1", "result-2", "result-2-1", "result-10",
    ]  # fmt: skip


def test_the_first_result_stands_for_a_model():
    assert (
        thumbnail(["model.safetensors", "samples/content-1.jpg", "samples/result-2-1.jpg", "samples/result-1-1.jpg"])
        == "samples/result-1-1.jpg"
    )
    assert thumbnail(["samples/content-1.jpg"]) == "samples/content-1.jpg"
    assert thumbnail(["model.safetensors"]) is None


def test_the_whole_loss_comes_first_then_its_terms():
    names = ["grad_norm", "style_loss", "total_loss", "content_loss"]
    assert sorted(names, key=importance) == ["total_loss", "content_loss", "style_loss", "grad_norm"]
