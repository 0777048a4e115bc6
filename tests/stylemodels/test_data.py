"""Which pictures a step sees, how they are cut, and that nothing but the seed and the step decides it."""

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from stylemodels.data import (
    Batches,
    FolderSource,
    PictureCache,
    StreamReader,
    repetitions,
)
from stylemodels.images import decode, resize, to_float
from stylemodels.method import Needs, Stream
from stylemodels.sources import check_classes, members_of, part_of
from tests import images


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve photographs in two folders, one of them twice."""
    folder = tmp_path_factory.mktemp("photos")
    images.write_photographs(folder, 8)
    paths = images.write_photographs(folder / "more", 4, first_seed=8)
    (folder / "a copy.jpg").write_bytes(paths[0].read_bytes())
    return folder


@pytest.fixture(scope="module")
def source(photos):
    return FolderSource(photos)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(("birds", "cats", "dogs")):
        images.write_photographs(folder / name, 4 + number, first_seed=20 * number)
    return FolderSource(folder, labelled=True)


def reader(source, *, count=4, seed=0, share=(0, 1), name="content", size=16, **options) -> StreamReader:
    stream = Stream("photos", count=count, size=size, **options)
    return StreamReader(name, stream, source, seed=seed, share=share, cache=PictureCache(1 << 20))


def drawn(reader: StreamReader, steps: Sequence[int]) -> list[int]:
    return [draw.picture for step in steps for draw in reader.draws(step)]


# --- folders ---


def test_a_folder_is_its_pictures_in_the_order_of_their_digests_without_doubles(photos, source):
    files = [path.read_bytes() for path in photos.rglob("*.jpg")]
    assert len(files) == 13
    assert source.digests == sorted({hashlib.sha256(data).hexdigest() for data in files})
    for index, digest in enumerate(source.digests):
        assert hashlib.sha256(source.read(index)).hexdigest() == digest
    assert source.refused == []
    assert source.labels is None
    assert source.classes == []


def test_the_names_and_places_of_files_do_not_matter(photos, source, tmp_path):
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
        (tmp_path / f"{100 - number}").mkdir()
        (tmp_path / f"{100 - number}" / "x").write_bytes(path.read_bytes())
    assert FolderSource(tmp_path).digests == source.digests


def test_what_is_no_picture_is_refused_alone_with_the_reason(tmp_path):
    images.write_photographs(tmp_path, 2)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "note.jpg").write_bytes(images.text())
    (tmp_path / "cut.png").write_bytes(images.truncated(images.png()))
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.jpg").write_bytes(images.jpeg(seed=5))
    source = FolderSource(tmp_path)
    assert len(source.digests) == 2
    assert [path for path, _ in source.refused] == ["cut.png", "sub/note.jpg"]
    assert "cut off" in source.refused[0].reason
    assert "not a JPEG, PNG or WebP" in source.refused[1].reason


def test_a_folder_without_a_picture_is_an_error_that_says_why(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no usable picture"):
        FolderSource(tmp_path)
    (tmp_path / "note.jpg").write_bytes(images.text())
    with pytest.raises(ValueError, match=r"no usable picture under .*; note\.jpg: not a JPEG"):
        FolderSource(tmp_path)


def test_the_folders_below_a_labelled_one_are_its_classes(classes):
    assert classes.classes == ["birds", "cats", "dogs"]
    assert Counter(classes.labels) == {0: 4, 1: 5, 2: 6}


def test_a_labelled_picture_has_one_class(tmp_path):
    images.write_photographs(tmp_path / "a", 2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "same.jpg").write_bytes((tmp_path / "a" / "photo-000.jpg").read_bytes())
    (tmp_path / "b" / "other.jpg").write_bytes(images.jpeg(seed=9))
    (tmp_path / "stray.jpg").write_bytes(images.jpeg(seed=10))
    source = FolderSource(tmp_path, labelled=True)
    assert Counter(source.labels) == {0: 2, 1: 1}
    assert [tuple(refused) for refused in source.refused] == [
        ("b/same.jpg", "the same picture is in class a"),
        ("stray.jpg", "in no class: it lies beside the folders of the classes"),
    ]


def test_a_class_without_a_usable_picture_is_refused_by_name(tmp_path):
    """Check 9 of the content transformation block: empty class folders."""
    images.write_photographs(tmp_path / "a", 1)
    (tmp_path / ".cache").mkdir()
    assert FolderSource(tmp_path, labelled=True).classes == ["a"]
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="there is no usable picture of class 'b'"):
        FolderSource(tmp_path, labelled=True)
    FolderSource(tmp_path)


def test_a_small_photo_of_a_content_transformation_block_is_enlarged_from_its_own_size(tmp_path):
    """From 128 x 96 to a shorter side of 800, not from what a crop needs to twice that; other recipes fill the crop."""
    images.write_photographs(tmp_path, 1, width=128, height=96)
    source, cache = FolderSource(tmp_path), PictureCache(1 << 20)
    cut = Stream("photos", count=1, size=112, augment="ctb")
    assert cache.get(source, 0, cut).shape == (3, 96, 128)
    assert cache.get(source, 0, replace(cut, augment="none")).shape == (3, 112, 149)
    assert reader(source, size=112, augment="ctb").read(0)["content"].shape[2:] == (112, 112)


# --- the order ---


def test_every_epoch_shows_every_picture_once_in_another_order(source):
    read = reader(source, count=4)
    epochs = [drawn(read, range(3 * epoch, 3 * epoch + 3)) for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_run_on_over_the_end_of_an_epoch(source):
    assert drawn(reader(source, count=5), range(12)) == drawn(reader(source, count=12), range(5))
    assert len(reader(source, count=30).draws(0)) == 30, "more than there are pictures"


def test_seed_and_stream_name_decide_the_order(source):
    orders = [
        tuple(drawn(reader(source, seed=seed, name=name), range(3))) for seed in (0, 1) for name in ("content", "query")
    ]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(drawn(reader(source), range(3)))


def test_crops_and_flips_are_functions_of_seed_and_position(source):
    first, again, other = reader(source, augment="flip"), reader(source, augment="flip"), reader(source, seed=1)
    assert torch.equal(first.read(7)["content"], again.read(7)["content"])
    assert not torch.equal(first.read(7)["content"], first.read(8)["content"])
    assert not torch.equal(first.read(7)["content"], other.read(7)["content"])


@pytest.mark.parametrize("count", [6, 7])
def test_workers_share_a_batch_as_one_alone_would_have_it(source, count):
    """The same pictures in the same crops and flips, one after the other."""
    whole = reader(source, count=count, augment="flip").read(3)["content"]
    parts = [reader(source, count=count, share=(rank, 3), augment="flip").read(3)["content"] for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_all_workers_have_a_whole_stream(source):
    whole = reader(source, count=4).read(3)["content"]
    assert torch.equal(reader(source, count=4, share=(1, 3), whole=True).read(3)["content"], whole)


# --- the cut ---


def test_a_crop_is_a_piece_of_the_scaled_picture_or_its_mirror_image(source):
    read = reader(source, count=12, size=20, load_size=24, augment="flip")
    mirrored = 0
    for draw, crop in zip(read.draws(0), read.read(0)["content"], strict=True):
        scaled = (resize(to_float(decode(source.read(draw.picture)))[None], 24, 32)[0] * 255).round()

        def distance(crop: torch.Tensor, scaled: torch.Tensor = scaled) -> float:
            windows = scaled.unfold(1, 20, 1).unfold(2, 20, 1)  # (3, 5, 13, 20, 20)
            return float((windows - crop.float()[:, None, None]).abs().mean((0, 3, 4)).min())

        plain, flipped = distance(crop), distance(crop.flip(2))
        assert min(plain, flipped) < 3, "levels of 256: a scaled decode and a resize in bytes differ a little"
        mirrored += flipped < plain
    assert 0 < mirrored < 12


def test_crops_reach_every_corner(source):
    read = reader(source, count=200, size=44, load_size=48, augment="none")
    offsets = set()
    for draw, crop in zip(read.draws(0), read.read(0)["content"], strict=True):
        picture = decode(source.read(draw.picture))
        places = [(y, x) for y in range(5) for x in range(21) if torch.equal(picture[:, y : y + 44, x : x + 44], crop)]
        offsets.update(places)
    assert {y for y, _ in offsets} == {0, 1, 2, 3, 4}
    assert {x for _, x in offsets} >= {0, 20}


def test_a_squashed_picture_is_whole(source):
    read = reader(source, count=12, size=24, squash=True)
    for draw, picture in zip(read.draws(0), read.read(0)["content"], strict=True):
        expected = resize(to_float(decode(source.read(draw.picture)))[None], 24, 24)[0]
        assert (to_float(picture) - expected).abs().mean() < 0.01


def test_a_squashed_picture_may_be_larger_than_the_crop_that_is_cut_from_it(source):
    read = reader(source, count=12, size=24, load_size=28, squash=True)
    for draw, crop in zip(read.draws(0), read.read(0)["content"], strict=True):
        squashed = resize(to_float(decode(source.read(draw.picture)))[None], 28, 28)[0]
        windows = squashed.unfold(1, 24, 1).unfold(2, 24, 1)  # (3, 5, 5, 24, 24)
        assert (windows - to_float(crop)[:, None, None]).abs().mean((0, 3, 4)).min() < 0.01


def test_a_picture_smaller_than_the_crop_is_enlarged(source):
    assert reader(source, size=96).read(0)["content"].shape == (4, 3, 96, 96)


# --- train and validation ---


def test_the_parts_divide_the_pictures(source):
    train, validation, both = (part_of(source.digests, part, 0.25) for part in ("train", "validation", "all"))
    assert sorted(train + validation) == both == list(range(12))
    assert train
    assert validation


def test_a_picture_s_own_digest_decides_its_part():
    digests = sorted(hashlib.sha256(bytes([n])).hexdigest() for n in range(200))
    validation = {digests[index] for index in part_of(digests, "validation", 0.1)}
    assert 8 <= len(validation) <= 34
    assert all(int(digest, 16) < 0.1 * 2**256 for digest in validation)
    fewer = digests[::2]
    assert {fewer[index] for index in part_of(fewer, "validation", 0.1)} == validation & set(fewer)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_part_is_ever_empty_and_only_a_single_picture_is_in_both(share):
    high = [f"{n:x}" * 64 for n in range(4, 9)]
    train, validation = part_of(high, "train", share), part_of(high, "validation", share)
    assert train
    assert validation
    assert not set(train) & set(validation)
    assert part_of(high[:1], "train", share) == part_of(high[:1], "validation", share) == [0]


def test_streams_of_a_part_draw_from_it_alone(source):
    held_out = set(drawn(reader(source, part="validation"), range(10)))
    trained_on = set(drawn(reader(source, part="train"), range(10)))
    assert held_out | trained_on == set(range(12))
    assert not held_out & trained_on


# --- classes ---


def test_labels_come_beside_the_pictures(classes):
    read = reader(classes, count=5)
    batch = read.read(2)
    assert batch["content_label"].dtype == torch.int64
    assert batch["content_label"].tolist() == [classes.labels[draw.picture] for draw in read.draws(2)]


def test_pictures_of_one_class_are_drawn_together_and_differ(classes):
    read = reader(classes, count=12, per_class=3)
    together = set()
    for step in range(20):
        labels = read.read(step)["content_label"].view(4, 3)
        assert (labels == labels[:, :1]).all()
        pictures = [draw.picture for draw in read.draws(step)]
        together.update(frozenset(pictures[place : place + 3]) for place in (0, 3, 6, 9))
    assert all(len(group) == 3 for group in together), "never the same picture twice in a group"
    assert len(together) > 20, "and not always the same companions"
    leaders = [draw.picture for step in range(15) for draw in read.draws(step)[::3]]
    assert Counter(leaders) == dict.fromkeys(range(15), 4), "each picture leads once an epoch"


def test_a_balanced_stream_shows_every_class_equally_often_and_all_its_pictures(classes):
    read = reader(classes, count=6, balanced=True)
    labels = [classes.labels[index] for index in drawn(read, range(40))]
    assert all(Counter(labels[n : n + 3]) == {0: 1, 1: 1, 2: 1} for n in range(0, 240, 3))
    birds = [index for index in drawn(read, range(40)) if classes.labels[index] == 0]
    assert all(len(set(birds[n : n + 4])) == 4 for n in range(0, 80, 4)), "an epoch of its own for every class"
    orders = [tuple(labels[n : n + 3]) for n in range(0, 240, 3)]
    assert len(set(orders)) == 6, "in all orders"
    assert all(label != following for label, following in pairwise(labels)), "never one twice in a row"
    again = reader(classes, count=6, balanced=True)
    assert again.draws(31) == read.draws(31), "whatever was asked for before"


def test_a_balanced_stream_of_groups_shows_every_class_equally_often(classes):
    read = reader(classes, count=6, per_class=2, balanced=True)
    for step in range(20):
        labels = read.read(step)["content_label"].view(3, 2)
        assert sorted(labels[:, 0].tolist()) == [0, 1, 2]
        assert torch.equal(labels[:, 0], labels[:, 1])
        assert len({draw.picture for draw in read.draws(step)}) == 6


class Listed:
    """Digests and labels without pictures."""

    def __init__(self, classes: Sequence[str], pictures: Sequence[tuple[str, int]]) -> None:
        pictures = sorted(pictures)
        self.classes = classes
        self.digests = [digest for digest, _ in pictures]
        self.labels = [label for _, label in pictures]

    def of(self, part: str) -> set[tuple[str, int]]:
        stream = Stream("objects", count=1, size=16, part=part)
        return {(self.digests[n], self.labels[n]) for n in members_of("objects", stream, self)}


def test_every_class_keeps_pictures_in_both_parts_and_a_single_one_in_training():
    many = [(hashlib.sha256(bytes([n])).hexdigest(), 0) for n in range(200)]
    few = [("f" * 63 + "0", 1), ("f" * 63 + "1", 1), ("0" * 64, 2), ("0" * 63 + "1", 3), ("0" * 63 + "2", 3)]
    source = Listed("abcd", many + few)
    train, validation = source.of("train"), source.of("validation")
    assert train | validation == set(many + few) == source.of("all")
    assert not train & validation
    assert {label for _, label in train} == {0, 1, 2, 3}
    assert {label for _, label in validation} == {0, 1, 3}
    fewer = Listed("abcd", many[::2] + few)
    assert fewer.of("validation") == validation & set(many[::2] + few), "the others stay where they were"


def test_without_a_class_of_two_there_is_nothing_to_validate_with():
    with pytest.raises(ValueError, match="no class of 'objects' has two pictures"):
        Listed("ab", [("0" * 64, 0), ("1" * 64, 1)]).of("validation")


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"count": 1, "share": (0, 2)}, "1 pictures a step cannot be shared out to 2 workers"),
        ({"count": 0}, "0 pictures a step"),
        ({"load_size": 15}, "load size 15 is smaller than the crop of 16"),
        ({"load_size": 15, "squash": True}, "load size 15 is smaller than the crop of 16"),
        ({"per_class": 2}, "pictures of one class are wanted, but 'photos' has no classes"),
        ({"balanced": True}, "every class equally often is wanted, but 'photos' has no classes"),
    ],
)
def test_a_stream_that_cannot_be_had_is_refused(source, options, reason):
    with pytest.raises(ValueError, match=f"stream content: .*{reason}"):
        reader(source, **options)


def test_a_class_too_small_to_draw_from_is_named(classes):
    with pytest.raises(ValueError, match="class 'birds' has 4 pictures, 5 are drawn together"):
        reader(classes, count=5, per_class=5)
    with pytest.raises(ValueError, match="class 'birds' has 3 pictures in the part 'train', 4 are drawn together"):
        reader(classes, count=4, per_class=4, part="train", validation_share=0.0)


def test_too_few_classes_and_too_few_pictures_of_one_are_refused(classes, source, tmp_path):
    needs = Needs(datasets={"objects": "labelled", "content": "images"}, min_per_class=5)
    with pytest.raises(ValueError, match="objects: class 'birds' has 4 pictures, 5 are needed"):
        check_classes("objects", classes, needs)
    images.write_photographs(tmp_path / "monet", 1)
    lonely = FolderSource(tmp_path, labelled=True)
    with pytest.raises(ValueError, match="objects: there is one class, 'monet', 2 are needed"):
        check_classes("objects", lonely, needs)
    with pytest.raises(ValueError, match="objects: class 'monet' has 1 picture, 5 are needed"):
        check_classes("objects", lonely, replace(needs, min_classes=1))
    check_classes("content", lonely, needs)
    check_classes("content", source, needs)


def test_a_data_set_that_was_not_given_is_named(source):
    with pytest.raises(ValueError, match="stream style needs the data set 'paintings'"):
        Batches({"style": Stream("paintings", count=1, size=16)}, {"photos": source}, seed=0)


# --- reading ahead ---

STREAMS = {
    "content": Stream("photos", count=4, size=16, load_size=20, augment="flip"),
    "style": Stream("photos", count=2, size=24, squash=True, part="validation"),
}


def test_batches_are_floats_between_zero_and_one(source):
    with Batches(STREAMS, {"photos": source}, seed=0) as batches:
        batch = batches.at(0)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "content": (4, 3, 16, 16),
        "style": (2, 3, 24, 24),
    }
    for tensor in batch.values():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert 0 <= tensor.min() < tensor.max() <= 1


def test_a_batch_is_the_same_whatever_was_asked_for_before(source):
    with Batches(STREAMS, {"photos": source}, seed=3) as batches:
        in_order = [batches.at(step) for step in range(8)]
    with Batches(STREAMS, {"photos": source}, seed=3, cache_bytes=0) as batches:
        for step in (5, 2, 7, 7, 0):
            for name, tensor in batches.at(step).items():
                assert torch.equal(tensor, in_order[step][name])


class Vanishing:
    """A source whose pictures cannot be read from some call on."""

    def __init__(self, source: FolderSource, good_reads: int) -> None:
        self.source, self.left = source, good_reads
        self.digests, self.labels, self.classes = source.digests, source.labels, source.classes
        self.threads: set[str] = set()

    def read(self, index: int) -> bytes:
        self.threads.add(threading.current_thread().name)
        self.left -= 1
        if self.left < 0:
            raise ValueError("the store is away")
        return self.source.read(index)


def test_an_error_while_reading_ahead_is_raised_at_its_own_step_and_no_earlier(source):
    vanishing = Vanishing(source, good_reads=4)
    with Batches({"content": Stream("photos", count=4, size=16)}, {"photos": vanishing}, seed=0) as batches:
        assert batches.at(0)["content"].shape == (4, 3, 16, 16)
        with pytest.raises(ValueError, match="the store is away"):
            batches.at(1)
    assert vanishing.threads == {"batches_0"}


def test_closing_ends_the_background_thread(source):
    before = threading.active_count()
    with Batches(STREAMS, {"photos": source}, seed=0) as batches:
        batches.at(0)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_picture_that_changed_since_the_folder_was_opened_is_named(tmp_path):
    (path,) = images.write_photographs(tmp_path, 1)
    source = FolderSource(tmp_path)
    path.write_bytes(images.jpeg(seed=1))
    with pytest.raises(ValueError, match=r"photo-000\.jpg has changed"):
        reader(source).read(0)
    path.unlink()
    with pytest.raises(ValueError, match=r"photo-000\.jpg: No such file"):
        reader(source).read(0)


def test_decoded_pictures_are_kept_up_to_a_number_of_bytes(source):
    stream = Stream("photos", count=1, size=16)
    counted = Vanishing(source, good_reads=100)
    cache = PictureCache(2 * 3 * 48 * 64)
    for index in (0, 1, 0, 1, 2, 2, 0):
        cache.get(counted, index, stream)
    assert 100 - counted.left == 4, "0, 1 and 2 once, and 0 again after 2 had taken its place"
    assert cache.size_bytes == 2 * 3 * 48 * 64


def test_a_stream_that_wants_more_pictures_a_step_than_there_are_says_so(tmp_path):
    images.write_photographs(tmp_path, 3)
    sources = {"style": FolderSource(tmp_path)}
    assert repetitions({"style": Stream("style", count=3, size=32)}, sources) == []
    (warning,) = repetitions({"style": Stream("style", count=4, size=32)}, sources)
    assert warning == "style: 4 pictures a step are wanted, style has 3: some come more than once"
