"""Tasks that draw by arithmetic, so that what lies around a task can be tested to the last digit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylemodels.export import describe_model
from stylemodels.method import Given, Method, Needs, NoControls, Picture, Style, Task
from stylemodels.mixing import share_of
from stylemodels.raster import Raster
from stylemodels.settings import setting
from stylemodels.stylize import Model
from stylemodels.tiles import tiles


@dataclass(frozen=True, kw_only=True)
class BlendControls:
    """What `Blend` can be told."""

    alpha: float = setting(1.0, "0 is the content, 1 the styles' mean colours", ge=0, le=1)


class Blend(Task):
    """Every pixel becomes the mean colour of its styles, by their shares there; remembers what it was given."""

    Config = NoControls
    Controls = BlendControls
    needs = Needs(datasets={})
    model_parts = ("scale",)
    styles = (1, 4)
    masks = True
    regions = True
    takes_init = True
    strength = "alpha"

    def __init__(self, config: NoControls = NoControls(), *_: Any) -> None:  # noqa: B008
        super().__init__()
        self.config = config
        self.scale = torch.nn.Linear(1, 1)
        self.given: list[tuple[Tensor, list[Style]]] = []

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: BlendControls) -> Picture:
        self.given.append((content, list(styles)))
        means = [share_of(style, content) * style.image.mean((2, 3), keepdim=True) for style in styles]
        painted = torch.stack([mean.expand_as(content) for mean in means]).sum(0)
        self.report(0.5)
        start = content if self.init_image is None else self.init_image
        label = (content.mean(1, keepdim=True)[..., ::8, ::8] > 0.5).float()
        return Picture(start.lerp(painted, controls.alpha), {"label": label, "curve": torch.arange(5.0)})


class Invert(Task):
    """1.25 - x: its own inverse, and out of range for dark pixels. It takes no styles and draws tiles."""

    Config = NoControls
    needs = Needs(datasets={})
    model_parts = ()
    styles = (0, 0)

    def __init__(self, config: NoControls = NoControls(), *_: Any) -> None:  # noqa: B008
        super().__init__()
        self.config = config
        self.tiles_drawn = 0

    def stylize(self, content: Tensor, styles: Sequence[Style], controls: Any) -> Picture:
        return Picture(1.25 - content)

    def stylize_tiles(
        self, source: Raster, target: Raster, styles: Sequence[Style], controls: Any, *, tile: int
    ) -> None:
        places = list(tiles(source.height, source.width, tile, 16))
        for number, place in enumerate(places, start=1):
            target.write(place.top, place.left, 1.25 - source.read(*place))
            self.tiles_drawn += 1
            self.report(number / len(places))


class Ahead(Invert):
    """Reads three frames of a video before it gives the first."""

    def stylize_video(self, frames: Iterator[Tensor], styles: Sequence[Style], controls: Any) -> Iterator[Picture]:
        waiting: list[Tensor] = []
        for frame in frames:
            waiting.append(frame)
            if len(waiting) == 3:
                yield Picture(1.25 - waiting.pop(0))
        yield from (Picture(1.25 - frame) for frame in waiting)


def model_of(task_class: type[Task]) -> Model:
    """A finished model of one of these tasks."""
    method = Method(slug="toy", title="Toy", paper="none", tasks={"draw": task_class})
    task = task_class(task_class.Config(), Given(task_class.needs))
    return Model(task, describe_model(task, method, "draw"))
