"""Finished models at work: any size, any of the model's controls, mixtures of adapted models."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from stylemodels.colour import luminance_only
from stylemodels.encoders import Encoder, EncoderName, encoders_description, load_encoder
from stylemodels.export import MODEL_FILE, Description, read_model
from stylemodels.method import Given, Picture, Style, Task
from stylemodels.methods import find_task
from stylemodels.options import Options, Told, told
from stylemodels.prepare import (
    Size,
    check_in_memory,
    check_picture,
    drawn_size,
    normalised,
    padded,
    padded_size,
    prepared_styles,
    scaled,
    size_of,
    tile_of,
)
from stylemodels.raster import Raster
from stylemodels.settings import build
from stylemodels.weights import Weights
from stylemodels.whitening import Moments

Report: TypeAlias = Callable[[float], None]  # told how much of a drawing is done, 0 to 1


class Model:
    """A finished model, ready to draw. It draws one picture at a time."""

    def __init__(self, task: Task, description: Description) -> None:
        """Raises ValueError for weights that are not finite numbers."""
        for name, tensor in task.model_tensors().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{MODEL_FILE}: {name} contains values that are not numbers")
        self.task = task
        self.description = description

    @property
    def name(self) -> str:
        """Method and task: "metastyle/adapt"."""
        return f"{self.description.method}/{self.description.task}"

    def stylize(
        self,
        content: Tensor,
        styles: Sequence[Style] = (),
        controls: Mapping[str, Any] | None = None,
        *,
        init_image: Tensor | None = None,
        report: Report | None = None,
    ) -> Tensor:
        """`picture` without what else is worth looking at. Raises ValueError for a model that draws none."""
        return self._image_of(self.picture(content, styles, controls, init_image=init_image, report=report))

    def picture(
        self,
        content: Tensor,
        styles: Sequence[Style] = (),
        controls: Mapping[str, Any] | None = None,
        *,
        init_image: Tensor | None = None,
        report: Report | None = None,
    ) -> Picture:
        """Draw one picture.

        content: (1, 3, H, W), RGB in [0, 1], sides from 16 px.
        styles: as many as the method takes, pictures of any size. Their weights are made to sum to 1. Masks lie over
            the content; where any style has one, a style without has what the masks leave, styles that overlap share
            by mask times weight, and where nobody has a share all have theirs by weight.
        controls: the model's own and those of `options.Options`, by name; what is left out has its default.
        init_image: another picture of the content, as large, which a method that `takes_init` goes on from.
        report: called now and then with how much is done, 0 to 1; at last with 1.

        The result's image is (1, 3, H, W) in [0, 1], as large as the content, or as `size` says; its maps are what the
        method shows beside it, of the last pass and without padding; of tiles there are none.
        Raises ValueError that names what cannot be used: the picture, a style, a mask, a control.
        """
        told = self.told(controls)
        check_picture("content", content)
        given = size_of(content)
        drawn = drawn_size(given, told.options)
        check_in_memory(drawn)
        return self.draw(
            scaled(content.float(), drawn), styles, told, given=given, init_image=init_image, report=report
        )

    @torch.inference_mode()
    def class_table(self, content: Tensor) -> dict[str, float]:
        """What a classifier sees in a picture (1, 3, H, W) in [0, 1]: class -> probability, the likeliest first.

        Raises ValueError for a model that draws, and for a picture that cannot be used.
        """
        check_picture("content", content)
        names = self.description.facts.get("class_names")
        if names is None:
            raise ValueError(f"a model of {self.name} tells no classes")
        shares = self.task.stylize(content.float(), [], self.task.Controls()).maps["classes"].flatten().tolist()
        return dict(sorted(zip(names, shares, strict=True), key=lambda pair: -pair[1]))

    def draw(
        self,
        content: Tensor,
        styles: Sequence[Style],
        told: Told,
        *,
        given: Size,
        init_image: Tensor | None = None,
        report: Report | None = None,
    ) -> Picture:
        """`picture` of a content that has the size already that it is drawn at; masks and `init_image` have `given`."""
        options, drawn = told.options, size_of(content)
        tile = tile_of(self.task, options, drawn)
        colours = Moments.of(content) if options.preserve_color == "coral" else None
        ready = prepared_styles(self.task, styles, options, given=given, drawn=drawn, colours=colours)
        canvas = padded(content, padded_size(type(self.task), drawn))
        with (
            self.starting_from(init_image, canvas, given=given, drawn=drawn),
            self.reporting(report, options.passes) as passes,
        ):
            if tile:
                picture = Picture(self._in_tiles(canvas, ready, told, passes, tile))
            else:
                picture = Picture(canvas)
                for _ in passes:
                    picture = self.task.stylize(self._image_of(picture), ready, told.controls)
        image = None if picture.image is None else finished(picture.image, content, options)
        return Picture(image, {name: unpadded(map, canvas, drawn) for name, map in picture.maps.items()})

    def frames(
        self,
        frames: Iterator[Tensor],
        styles: Sequence[Style] = (),
        controls: Mapping[str, Any] | None = None,
        *,
        opening: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Draw a video: each frame as `stylize` takes and gives it, all of one size.

        Styles, masks and controls are the same for all frames; coral takes the colours of the first: `opening`, where
        `frames` go on in the middle of a video. Frames are drawn whole. Raises ValueError, when the first frame that
        cannot be used is asked for, as `stylize` does.
        """
        options, own = self.told(controls)
        if options.tile:
            raise ValueError(f"tile: {options.tile} was given, but the frames of a video are drawn whole: leave it out")
        first = next(frames, None)
        if first is None:
            return
        check_picture("frame 1", first)
        given = size_of(first)
        drawn = drawn_size(given, options)
        tile_of(self.task, options, drawn)
        shown = scaled((first if opening is None else opening).float(), drawn)
        colours = Moments.of(shown) if options.preserve_color == "coral" else None
        ready = prepared_styles(self.task, styles, options, given=given, drawn=drawn, colours=colours)
        contents: deque[Tensor] = deque()  # of the frames that are being drawn: a method may read ahead
        pictures = self._canvases(chain([first], frames), given, drawn, contents)
        for _ in range(options.passes):
            pictures = map(self._image_of, self.task.stylize_video(pictures, ready, own))
        for image in pictures:
            yield finished(image, contents.popleft(), options)

    def told(self, controls: Mapping[str, Any] | None) -> Told:
        """Named controls, checked and completed. Raises InvalidConfig."""
        return told(type(self.task), controls)

    @contextmanager
    def starting_from(self, init_image: Tensor | None, canvas: Tensor, *, given: Size, drawn: Size) -> Iterator[None]:
        """The task has `init_image`, as large as its canvas, for one drawing. Raises ValueError if it takes none."""
        if init_image is None:
            yield
            return
        if not self.task.takes_init:
            raise ValueError(f"init_image: a model of {self.name} starts from the content alone")
        check_picture("init_image", init_image)
        if size_of(init_image) != given:
            raise ValueError(f"init_image: {size_of(init_image)}, but the content has {given}")
        self.task.init_image = padded(scaled(init_image.float(), drawn), size_of(canvas))
        try:
            yield
        finally:
            self.task.init_image = None

    @contextmanager
    def reporting(self, report: Report | None, passes: int) -> Iterator[Iterator[int]]:
        """Gives the passes to go through, while the task tells `report` of its share of each."""

        def counted() -> Iterator[int]:
            for done in range(passes):
                if report is not None:
                    self.task.report = partial(report_pass, report, done, passes)
                yield done

        silent = self.task.report
        try:
            yield counted()
        finally:
            self.task.report = silent
        if report is not None:
            report(1.0)

    def draw_tiles(
        self,
        source: Raster,
        folder: Path,
        styles: Sequence[Style],
        told: Told,
        passes: Iterator[int],
        tile: int,
    ) -> Raster:
        """All passes over a padded picture on disk, in tiles. `source` stays; the result lies in `folder`."""
        for done in passes:
            path = folder / f"pass-{done % 2}.raster"
            target = Raster(path, source.height, source.width, told.options.storage)
            self.task.stylize_tiles(source, target, styles, told.controls, tile=tile)
            source = target
        return source

    def _in_tiles(
        self, canvas: Tensor, styles: Sequence[Style], told: Told, passes: Iterator[int], tile: int
    ) -> Tensor:
        with TemporaryDirectory(prefix="stylize-") as name:
            source = Raster(Path(name) / "content.raster", *size_of(canvas), told.options.storage)
            source.write(0, 0, canvas)
            target = self.draw_tiles(source, Path(name), styles, told, passes, tile)
            return target.read(0, 0, target.height, target.width)

    def _canvases(
        self, frames: Iterator[Tensor], given: Size, drawn: Size, contents: deque[Tensor]
    ) -> Iterator[Tensor]:
        """Frames checked, scaled and padded; `contents` gets each as it is before padding."""
        canvas = padded_size(type(self.task), drawn)
        for number, frame in enumerate(frames, start=1):
            check_picture(f"frame {number}", frame)
            if size_of(frame) != given:
                raise ValueError(f"frame {number}: {size_of(frame)}, but the first has {given}")
            contents.append(scaled(frame.float(), drawn))
            yield padded(contents[-1], canvas)

    def _image_of(self, picture: Picture) -> Tensor:
        if picture.image is None:
            raise ValueError(f"a model of {self.name} draws no pictures")
        return picture.image


def report_pass(report: Report, done: int, passes: int, share: float) -> None:
    """Tell `report` of a share of the pass after `done` finished ones."""
    report((done + share) / passes)


def finished(image: Tensor, content: Tensor, options: Options) -> Tensor:
    """What a task drew, without the padding, in the content's colours if asked for, in [0, 1]."""
    image = image[..., : content.shape[-2], : content.shape[-1]].float()
    if options.preserve_color == "luminance":
        image = luminance_only(image.clamp(0, 1), content)
    return image.clamp(0, 1)


def unpadded(map: Tensor, canvas: Tensor, drawn: Size) -> Tensor:
    """A map without what it shows of the padding, if it lies over the canvas at a whole stride; others as they are."""
    if map.ndim != 4:
        return map
    (height, width), over = map.shape[-2:], size_of(canvas)
    stride = over.height // height
    if (height * stride, width * stride) != over:
        return map
    return map[..., : -(-drawn.height // stride), : -(-drawn.width // stride)]


class NoWeights(nn.Module):
    """Stands where an encoder's network would be, in models that never ask it for anything."""

    def forward(self, *_: Any) -> dict[str, Tensor]:
        raise ValueError("this model was rebuilt without its encoder's weights")


def outline(name: EncoderName) -> Encoder:
    """An encoder's name, taps and channels without its weights; it cannot compute."""
    return Encoder(name, encoders_description()[name]["taps"], NoWeights())


def load_model(folder: Path, weights: Weights | None = None) -> Model:
    """A model from the folder that `export.write_model` wrote.

    weights: where the encoder's weight files lie, if the method still needs one. Raises ValueError when the encoder's
    weights are missing, `checkpoint.Damaged` when a file of the model is.
    """
    description, tensors = read_model(folder)
    method, task_name = find_task(f"{description.method}/{description.task}")
    task_class = method.tasks[task_name]
    config: Any = build(task_class.Config, description.config)
    encoder = None
    if name := getattr(config, "encoder", None):
        encoder = load_encoder(name, weights) if task_class.stylize_encodes else outline(name)
    given = Given(task_class.needs, encoder=encoder, classes=description.facts.get("classes"))
    task = task_class(config, given)
    task.load_model_tensors(tensors)
    task.eval().requires_grad_(False)
    return Model(task, description)


def interpolate(models: Sequence[tuple[Model, float]]) -> Model:
    """One model between several that were adapted from the same start: the convex combination of their weights.

    Weights are made to sum to 1. Raises ValueError that names the models when they have different starts.
    Source: Zhang et al. 2019 (arXiv:1812.05233).
    """
    if not models:
        raise ValueError("models: none was given")
    first = models[0][0]
    for position, (model, _) in enumerate(models, start=1):
        start = model.description.facts.get("initial_sha256")
        if start is None:
            raise ValueError(f"model {position} is of {model.name}: only adapted models can be mixed")
        if start != first.description.facts["initial_sha256"]:
            raise ValueError(f"models 1 and {position} were adapted from different starts and cannot be mixed")
    shares = normalised([weight for _, weight in models])
    states = [model.task.state_dict() for model, _ in models]
    mixed = {
        name: sum(share * state[name].double() for share, state in zip(shares, states, strict=True))
        for name in states[0]
    }
    task = deepcopy(first.task)
    with torch.no_grad():
        for name, tensor in task.state_dict().items():
            tensor.copy_(torch.as_tensor(mixed[name]))
    return Model(task, first.description)
