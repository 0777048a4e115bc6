"""TPFR: its networks, its losses, and above all who learns from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, pad
from torch.testing import assert_close

from stylemodels import collapse
from stylemodels.collapse import concerns
from stylemodels.data import Batches, FolderSource
from stylemodels.describe import on_meta_device
from stylemodels.distributed import Group, part_of, weight_of
from stylemodels.export import write_model
from stylemodels.folder_run import FolderRun
from stylemodels.method import Given, Style, Task
from stylemodels.methods import find_task
from stylemodels.methods.tpfr import StylizeControls, Train, TrainConfig, code_loss, distances, metric_loss
from stylemodels.peer_networks import Critic, Decoder, SplitEncoder
from stylemodels.peers import Code
from stylemodels.sources import check_classes
from stylemodels.stylize import load_model
from stylemodels.train import Diverged, Run, build_task, trained_state
from tests import images
from tests.stylemodels.test_distributed import part, together
from tests.stylemodels.toy import (
    SMALL,
    advance,
    batch_of,
    fixed_batch,
    paintings,
    photos,
    same,
    small_run,
    small_task,
    write_pictures,
)

NAME = "tpfr/train"
NETWORKS = ("encoder", "aux_decoder", "transfer", "decoder", "critic")
QUIET: Mapping[str, Any] = {"att_dropout": 0.0, "d_noise": 0.0, "pool_size": 0}  # nothing random in a step
AUX_WEIGHTS = ("lambda_cont", "lambda_style", "lambda_idt_aux", "lambda_cycle_aux")
MAIN_WEIGHTS = ("lambda_gen", "lambda_transf", "lambda_idt")


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def exact_run(**settings: Any) -> Run:
    return Run(small_task(NAME, **{**QUIET, **settings}).double(), seed=0)


def double(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: pictures.double() for name, pictures in batch.items()}


def test_the_networks_are_as_large_as_published():
    """Check 1."""
    task = on_meta_device(Train)
    sizes = {name: count(task.get_submodule(name)) for name in NETWORKS}
    assert sizes["critic"] == 2_767_809
    assert sizes["encoder"] + sizes["decoder"] + sizes["aux_decoder"] + sizes["transfer"] == 25_519_580
    assert sizes["encoder"] + sizes["decoder"] + sizes["transfer"] == 17_576_787
    parts = ["encoder.pre", "encoder.main", "encoder.glob", "decoder.merge", "transfer.content_head"]
    assert [count(task.get_submodule(part)) for part in parts] == [83_328, 7_573_510, 1_770_240, 196_864, 41_666]


def test_pictures_of_256_px_have_the_published_shapes_everywhere():
    """Check 2."""
    with torch.device("meta"):
        code, middle = SplitEncoder(64, 6, global_style=True)(torch.empty(1, 3, 256, 256))
        picture = Decoder(64, 6)(code)
        scores = Critic(64, 0.1).eval()(picture, picture)
    assert [tuple(part.shape[1:]) for part in code] == [(256, 64, 64), (512, 64, 64)]
    assert middle.shape[1:] == (128, 128, 128)
    assert (picture.shape[1:], scores.shape[1:]) == ((3, 256, 256), (1, 68, 68))


def normed(values: Tensor) -> Tensor:
    variance, mean = torch.var_mean(values, (2, 3), correction=0, keepdim=True)
    return (values - mean) / (variance + 1e-5).sqrt()


def plain(layer: nn.Module, values: Tensor, *, zeros: int = 0, mirror: int = 0, stride: int = 1) -> Tensor:
    """A convolution around which so many pixels are added on every side."""
    framed = pad(values, [mirror] * 4, mode="reflect") if mirror else pad(values, [zeros] * 4)
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return conv2d(framed, weight, bias, stride)


def block(layers: Any, values: Tensor) -> Tensor:
    inner = normed(plain(layers[0].conv, values, mirror=1))
    return values + normed(plain(layers[1].conv, torch.where(inner > 0, inner, 0.25 * inner), mirror=1))


def test_the_networks_are_the_published_ones_layer_by_layer():
    """Paddings, norms, slopes and the order of the style code's halves, against plain functions in float64."""
    task: Any = small_task(NAME, width=8).double().eval()
    for name, parameter in task.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    E, D, C = task.encoder, task.decoder, task.critic.layers
    x = 2 * torch.rand(1, 3, 52, 64, dtype=torch.float64) - 1

    middle = normed(plain(E.pre[0].conv, x, mirror=3)).relu()
    middle = normed(plain(E.pre[1].conv, middle, zeros=1, stride=2)).relu()
    z = block(E.main[1], normed(plain(E.main[0].conv, middle, zeros=1, stride=2)).relu())
    content, seen, local = normed(plain(E.main[2].conv, z)).relu().split(32, dim=1)
    for layer in E.glob:
        seen = normed(plain(layer.conv, seen, zeros=1, stride=2)).relu()
    style = torch.cat([seen.mean((2, 3), keepdim=True).expand_as(local), local], 1)
    found = E(x)
    for own, expected in zip((*found.code, found.middle), (content, style, middle), strict=True):
        assert_close(own, expected)

    y = block(D.trunk[0], normed(plain(D.merge.conv, torch.cat([content, style], 1))).relu())
    for layer in D.up:
        y = normed(conv_transpose2d(y, layer.conv.weight, layer.conv.bias, stride=2, padding=1)).relu()
    y = plain(D.out, y, mirror=3).tanh()
    assert_close(D(found.code), y)

    scores = leaky_relu(plain(C[0], torch.cat([y, x], 1), zeros=2, stride=2), 0.2)
    for place, stride in ((2, 2), (3, 1), (4, 1)):
        scores = leaky_relu(normed(plain(C[place].conv, scores, zeros=2, stride=stride)), 0.2)
    assert_close(task.critic(y, x), plain(C[5], scores, zeros=2))


def test_weights_start_small_and_biases_at_zero():
    task = small_task(NAME, width=16)
    layers = [m for m in task.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    weights = torch.cat([layer.weight.detach().flatten() for layer in layers])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean()) < 1e-4
    assert not any(layer.bias.any() for layer in layers)
    assert {p.item() for m in task.modules() if isinstance(m, nn.PReLU) for p in m.parameters()} == {0.25}


def test_content_and_style_may_differ_in_size_and_what_the_critic_compares_may_not():
    """Check 2."""
    task = small_task(NAME).eval()
    result = task.stylize(photos(1, 96)[..., :64, :], [Style(paintings(1, 80)[..., :64])], StylizeControls())
    assert result.image is not None
    assert result.image.shape == (1, 3, 64, 96)
    assert {name: tuple(value.shape) for name, value in result.maps.items()} == {"matches": (1, 3, 16, 24)}
    with pytest.raises(ValueError, match="was given with a reference"):
        Critic(8, 0.0)(torch.zeros(1, 3, 48, 48), torch.zeros(1, 3, 48, 52))


def test_the_global_style_code_is_the_mean_of_relu_of_a_gaussian_at_first_and_the_same_everywhere():
    """Instance norms wipe out means and deviations: 0.40 for every picture of random texture."""
    torch.manual_seed(0)
    task = small_task(NAME, width=16)
    style = task.encoder(2 * torch.rand(1, 3, 128, 128) - 1).code.style
    shared = style[:, : style.shape[1] // 2]
    assert torch.equal(shared, shared[..., :1, :1].expand_as(shared))
    assert 0.35 < shared.mean() < 0.45


def test_the_critic_sees_noise_in_training_only():
    critic, picture = Critic(8, 0.1), photos(1, 48)
    assert not torch.equal(critic(picture, picture), critic(picture, picture))
    critic.eval()
    assert torch.equal(critic(picture, picture), critic(picture, picture))
    critic.train().layers = nn.Identity()  # type: ignore[assignment]
    deviations = (critic(picture, picture) - torch.cat([picture, picture], 1)).std((0, 2, 3))
    assert_close(deviations, torch.full((6,), 0.1), atol=0.01, rtol=0)


def test_the_metric_loss_pulls_one_class_together_and_pushes_two_apart():
    """Check 7."""
    one = torch.rand(2, 6, 3, 4)
    positive, negative = distances(one, one, one, one)
    assert metric_loss(positive, negative, 0.7).item() == pytest.approx(0.7, rel=1e-7), "exactly mu"
    positive, negative = distances(one, one, one + 1, one + 1)
    assert metric_loss(positive, negative, 1.0).item() == 0
    for delta in (0.25, 1.0):
        assert code_loss(one + delta, one).item() == pytest.approx(6 * delta**2 / 2, rel=1e-5)
    assert code_loss(one + 3, one).item() == pytest.approx(6 * 2.5, rel=1e-5), "linear beyond 1"


def test_in_every_pair_of_styles_one_side_learns():
    codes = [torch.rand(1, 4, 2, 2).requires_grad_() for _ in range(4)]
    sum(distances(*codes)).backward()
    assert [code.grad is not None for code in codes] == [False, True, False, True]


def huber(first: Tensor, second: Tensor) -> Tensor:
    gap = (first - second).abs()
    return torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum(1).mean()


def written_out(task: Task, x: Sequence[Tensor], margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """L_D~, L_D and L_C of x_i1, x_i2, x_t1, x_t2, each network a plain function and each sg() in its place."""
    E, T, D, A, C = task.encoder, task.transfer, task.decoder, task.aux_decoder, task.critic
    (i1, m_i1), (i2, _), (t1, _), (t2, m_t2) = (E(image) for image in x)
    sg_i1, sg_t1, sg_t2 = (z.detach() for z in (i1, t1, t2))
    fake, rec_i, rec_t = D(T(sg_i1, sg_t2)), D(sg_i1), D(sg_t2)
    zf, zr = E(fake).code, E(rec_i).code
    aux_i, aux_t = A(i1), A(t2)
    (zi, mi), (zt, mt) = E(aux_i), E(aux_t)
    cont = (huber(zf.content, sg_i1.content) + huber(zr.content, sg_i1.content)) / 2
    pos = (huber(t2.style, sg_t1.style) + huber(i2.style, sg_i1.style)) / 2
    neg = (huber(i2.style, sg_t1.style) + huber(t2.style, sg_i1.style)) / 2
    style = pos + (margin - neg).clamp(min=0)
    idt_aux = ((aux_i - x[0]) ** 2).mean() / 2 + ((aux_t - x[3]) ** 2).mean() / 2
    cycle = huber(zi.content, sg_i1.content) + huber(zi.style, sg_i1.style) + huber(mi, m_i1.detach())
    cycle = (cycle + huber(zt.style, sg_t2.style) + huber(mt, m_t2.detach())) / 5
    transf = (huber(zf.content, sg_i1.content) + huber(zf.style, sg_t2.style)) / 2
    idt = ((rec_i - x[0]) ** 2).mean() / 2 + ((rec_t - x[3]) ** 2).mean() / 2

    def both(sign: float, *, learn: bool) -> Tensor:
        losses = []
        for real, drawn, reference in ((x[0], rec_i, x[1]), (x[2], fake, x[3])):
            r, f = C(real, reference), C(drawn.detach() if learn else drawn, reference)
            losses += [((r - f.mean() + sign) ** 2).mean() / 2, ((r.mean() - f + sign) ** 2).mean() / 2]
        return torch.stack(losses).sum() / 2

    return cont + style + idt_aux + cycle, both(1.0, learn=False) + transf + 25 * idt, both(-1.0, learn=True)


def test_terms_and_gradients_are_those_of_the_equations():
    """Every loss of the paper with the factors of the authors' code, and every gradient, in float64.

    With a margin so wide that styles of two classes are not apart enough yet. After Adam's first step its first moment
    is (1 - beta1) times the gradient.
    """
    run, other = exact_run(ml_margin=100.0), exact_run()
    batch = double(fixed_batch(run.task))
    x = [2 * batch[name][place::2] - 1 for name in ("content", "style") for place in (0, 1)]
    aux, main, disc = written_out(other.task, x, margin=100.0)
    terms = run.advance(batch)
    names = ["cont_loss", "style_loss", "idt_aux_loss", "cycle_aux_loss"]
    assert sum(terms[name] for name in names) == pytest.approx(aux.item(), rel=1e-6)
    assert terms["gen_loss"] + terms["transf_loss"] + terms["idt_loss"] == pytest.approx(main.item(), rel=1e-6)
    assert terms["disc_loss"] == pytest.approx(disc.item(), rel=1e-6)
    for name, loss in (("aux", aux), ("main", main), ("disc", disc)):
        parameters = [p for group in other.task.active[name].param_groups for p in group["params"]]
        expected = torch.autograd.grad(loss, parameters, retain_graph=True)
        moments = run.task.active[name].state_dict()["state"]
        assert len(moments) == len(parameters)
        for index, gradient in enumerate(expected):
            assert_close(moments[index]["exp_avg"] / 0.5, gradient, atol=1e-12, rtol=1e-6)


@pytest.mark.parametrize(
    ("off", "moved"),
    [
        ((*AUX_WEIGHTS, "lambda_disc"), {"transfer", "decoder"}),
        ((*MAIN_WEIGHTS, "lambda_disc"), {"encoder", "aux_decoder"}),
        ((*AUX_WEIGHTS, *MAIN_WEIGHTS), {"critic"}),
    ],
    ids=["MAIN", "AUX", "DISC"],
)
def test_each_loss_moves_its_own_networks_and_no_other(off: Sequence[str], moved: set[str]):
    """Check 8."""
    run = small_run(NAME, **dict.fromkeys(off, 0.0))
    before = {name: value.clone() for name, value in run.task.named_parameters()}
    advance(run, 1)
    changed = {n.partition(".")[0] for n, value in run.task.named_parameters() if not torch.equal(value, before[n])}
    assert changed == moved


@pytest.mark.parametrize(("self_transfer", "learns"), [("identity", False), ("peer", True)])
def test_what_the_layer_learns_from_reconstruction(self_transfer: str, learns: bool):
    """Check 8: nothing where T(z, z) is z."""
    run = small_run(NAME, self_transfer=self_transfer)
    passed = run.task.passed(fixed_batch(run.task))
    loss = run.task.main_terms(passed)["idt_loss"]
    first = next(run.task.transfer.parameters())
    (gradient,) = torch.autograd.grad(loss, [first], allow_unused=True)
    assert (gradient is not None) == learns


def test_a_second_step_goes_on_from_the_weights_of_the_first():
    """Check 9: no graph is walked whose weights have changed in between."""
    first, second = advance(small_run(NAME), 2)
    assert first.keys() == second.keys()
    assert first["idt_loss"] != second["idt_loss"]


def test_the_rate_is_constant_and_then_falls_in_stairs_of_an_epoch():
    """Check 10."""
    task = on_meta_device(Train)

    def factor(epoch: int, within: int = 0) -> float:
        task.step = 3_072 * epoch + within
        return task.lr_scale("main")

    assert {factor(0), factor(49, 3_071)} == {1.0}
    assert factor(50) == factor(50, 3_071) == pytest.approx(150 / 151)
    assert factor(199) == pytest.approx(1 / 151)
    assert len({factor(epoch) for epoch in range(49, 200)}) == 151


def test_a_short_run_falls_from_where_it_is_told_to():
    task = small_task(NAME, steps=100, decay_start=60, epoch_steps=10)
    factors = []
    for task.step in range(0, 100, 10):
        factors.append(task.lr_scale("aux"))
    assert factors == pytest.approx([1] * 6 + [0.8, 0.6, 0.4, 0.2])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Photos, among them a grey and a transparent one, and three classes of four, three and two paintings."""
    photo_folder = write_pictures(tmp_path / "content", photos(4, 64))
    pixels = images.photograph(64, 64)
    (photo_folder / "grey.png").write_bytes(images.encoded(pixels[..., 0], "PNG"))
    (photo_folder / "clear.png").write_bytes(images.transparent_png(pixels, pixels[..., 1]))
    for label, size in enumerate((4, 3, 2)):
        write_pictures(tmp_path / "style" / f"artist-{label}", paintings(size, 64, seed=label))
    return tmp_path


def batches(folder: Path, steps: int, **settings: Any) -> list[dict[str, Tensor]]:
    task = small_task(NAME, load_size=56, batch_size=2, **settings)
    sources = {"content": FolderSource(folder / "content"), "style": FolderSource(folder / "style", labelled=True)}
    with Batches(task.streams(), sources, seed=0) as made:
        return [made.at(step) for step in range(steps)]


def test_photos_and_two_paintings_of_one_class_are_drawn_together(folders: Path):
    """Check 11: grey and transparent pictures have three channels; other references in the next epoch."""
    drawn = batches(folders, 12)
    assert {tuple(batch[name].shape) for batch in drawn for name in ("content", "style")} == {(4, 3, 48, 48)}
    labels = torch.stack([batch["style_label"] for batch in drawn]).reshape(-1, 2)
    assert torch.equal(labels[:, 0], labels[:, 1])
    assert labels[:, 0].bincount().tolist() == [8, 8, 8], "every artist equally often"
    epochs = [torch.stack([batch["style"] for batch in part]) for part in (drawn[:6], drawn[6:])]
    assert not torch.equal(*epochs)


def test_two_classes_that_are_drawn_together_differ(folders: Path):
    """Check 11, of pairing all_to_all."""
    drawn = batches(folders, 30, pairing="all_to_all")
    assert {tuple(batch["style"].shape) for batch in drawn} == {(8, 3, 48, 48)}
    labels = torch.stack([batch["style_label"] for batch in drawn]).reshape(-1, 2, 2)
    assert torch.equal(labels[..., 0], labels[..., 1])
    assert (labels[:, 0, 0] != labels[:, 1, 0]).all()


def test_of_two_classes_each_is_the_content_s_in_every_other_step(folders: Path):
    """Two classes come in one order for ever."""
    (folders / "style" / "artist-2").rename(folders / "spare")
    task, contents = small_task(NAME, pairing="all_to_all"), []
    for task.step, batch in enumerate(batches(folders, 4, pairing="all_to_all")):
        i1, i2, t1, t2 = (labels.tolist() for labels in task.couples({"style": batch["style_label"]}))
        assert i1 == i2 != t1 == t2
        contents.append(i1[0])
    assert contents in ([0, 1, 0, 1], [1, 0, 1, 0])


@pytest.mark.parametrize("pairing", ["photo_to_class", "all_to_all"])
def test_the_critic_s_pictures_share_their_scale_and_its_references_another(pairing: str, tmp_path: Path):
    """Slopes of ramps tell the scale: x_i1 and x_t1 have one, x_i2 and x_t2 one of their own."""
    ramps = [(2 * torch.arange(96.0) + start).expand(1, 3, 64, 96) / 255 for start in range(12)]
    write_pictures(tmp_path / "content", torch.cat(ramps[:4]))
    for label in range(2):
        write_pictures(tmp_path / "style" / str(label), torch.cat(ramps[4 + 4 * label : 8 + 4 * label]))
    slopes = []
    task = small_task(NAME, pairing=pairing)
    for batch in batches(tmp_path, 8, pairing=pairing, color_jitter=0.0):
        couples = torch.stack(list(task.couples(batch))) * 255
        slopes.append((couples[..., 0, 8, 40] - couples[..., 0, 8, 8]).abs() / 32)
    i1, i2, t1, t2 = torch.cat(slopes, dim=1)
    assert_close(i1, t1, atol=0.07, rtol=0)
    assert_close(i2, t2, atol=0.07, rtol=0)
    assert (i1 - i2).abs().max() > 0.15


def test_of_two_classes_all_four_pictures_are_used(tmp_path: Path):
    run = exact_run(pairing="all_to_all")
    batch = double(fixed_batch(run.task))
    assert set(batch) == {"style"}
    passed = run.task.passed(batch)
    for place, shown in enumerate((passed.x_i1, passed.x_i2, passed.x_t1, passed.x_t2)):
        assert torch.equal(shown, 2 * batch["style"][place::4] - 1)


def test_a_dataset_that_will_not_do_is_refused_with_the_class(folders: Path):
    """Check 11."""
    write_pictures(folders / "style" / "artist-3", paintings(1, 64, seed=9))
    with pytest.raises(ValueError, match="class 'artist-3' has 1 picture, 2 are needed"):
        check_classes("style", FolderSource(folders / "style", labelled=True), Train.needs)
    write_pictures(folders / "single" / "artist", paintings(2, 64))
    with pytest.raises(ValueError, match="there is one class, 'artist', 2 are needed"):
        check_classes("style", FolderSource(folders / "single", labelled=True), Train.needs)


def test_settings_that_cannot_be_used_are_refused_by_name():
    """Check 11: crops below 48 px, and more neighbours than a crop has positions."""
    with pytest.raises(ValueError, match="content_size"):
        small_task(NAME, content_size=44)
    with pytest.raises(ValueError, match="knn: 145 was given, a crop of 48 px has 144 positions"):
        small_task(NAME, knn=145)


@pytest.mark.parametrize(("pairing", "unit"), [("photo_to_class", 2), ("all_to_all", 4)])
def test_workers_share_out_couples_and_never_part_them(pairing: str, unit: int):
    streams = small_task(NAME, pairing=pairing, batch_size=3).streams()
    for stream in streams.values():
        parts = [part_of(stream, rank, 2) for rank in range(2)]
        assert [(part.start, part.stop) for part in parts] == [(0, unit), (unit, 3 * unit)]
    assert weight_of(list(streams.values()), 0, 2) == pytest.approx(1 / 3)


def test_two_workers_keep_the_same_weights_and_a_pool_of_their_own():
    tasks = [small_task(NAME, batch_size=2) for _ in range(2)]

    def train(group: Group) -> Run:
        run = Run(tasks[group.rank], seed=0, group=group)
        for _ in range(2):
            run.advance(part(batch_of(run.streams(), run.step), run.streams(), group))
        return run

    first, second = (dict(run.task.named_parameters()) for run in together(2, train))
    assert same(first, second)
    assert not torch.equal(*(task.pools[0].kept for task in tasks))


@pytest.mark.parametrize(
    "settings",
    [
        {"stages": "style_only", "global_style": False, "distance": "cosine"},
        {"self_transfer": "peer", "pairing": "all_to_all", "pool_size": 0, "res_blocks": 0},
    ],
    ids=["ablations", "literal"],
)
def test_every_other_choice_trains_and_draws(settings: dict[str, Any], tmp_path: Path):
    run = small_run(NAME, **settings)
    assert advance(run, 2)
    assert (run.task.transfer.style_head is None) == (run.task.encoder.glob is None) == ("stages" in settings)
    method, task_name = find_task(NAME)
    write_model(tmp_path, run.task, method, task_name)
    assert load_model(tmp_path).stylize(photos(1, 64), [Style(paintings(1, 64))]).shape == (1, 3, 64, 64)


def test_a_loss_that_is_no_number_ends_the_training():
    run = small_run(NAME)
    batch = fixed_batch(run.task)
    with pytest.raises(Diverged, match="became nan in step 1"):
        run.advance({**batch, "style": batch["style"] * float("nan")})


def test_the_terms_tell_how_the_game_stands():
    (terms,) = advance(small_run(NAME), 1)
    assert {f"{name}_gradient" for name in NETWORKS} <= set(terms)
    assert all(terms[f"{name}_gradient"] > 0 for name in NETWORKS)
    assert {"positive_distance", "negative_distance", "real_score", "fake_score"} <= set(terms)
    assert terms["lr"] == pytest.approx(1e-3)


def test_a_decoder_that_has_collapsed_is_a_concern():
    run = small_run(NAME)
    shown = batch_of(run.task.validation_streams())
    figures = run.evaluate([shown])
    assert figures.keys() == {"validation_content_variety", "validation_style_variety"}
    assert concerns(figures) == []
    nn.init.zeros_(run.task.decoder.merge.conv.weight)
    collapsed = run.evaluate([shown])
    assert set(collapsed.values()) == {0.0}
    assert len(concerns(collapsed)) == 2


def test_a_training_on_folders_tells_concerns(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(collapse, "LEAST_VARIETY", 1e9)
    settings = {**SMALL[NAME], "steps": 1, "onnx": False}
    run = FolderRun(NAME, settings, folders={n: folders / n for n in ("content", "style")}, out=tmp_path / "out")
    run.train(resume=False, say=lambda *_: None)
    assert "step 1: validation_style_variety is" in capsys.readouterr().out


def test_a_layer_that_gives_every_painting_the_same_style_is_a_concern_of_its_own():
    run = small_run(NAME)
    run.task.transfer.forward = lambda own, given: own
    (told,) = concerns(run.evaluate([batch_of(run.task.validation_streams())]))
    assert told.startswith("validation_style_variety")


def test_a_preview_shows_both_decoders_and_training_does_not_notice():
    run = small_run(NAME)
    before = {name: value.clone() for name, value in trained_state(run.task).items()}
    grid = dict(run.preview(batch_of(run.task.preview_streams())))
    assert {"content-1", "content-1-main", "content-1-auxiliary", "style-2-main", "result-1-2"} <= set(grid)
    assert same(trained_state(run.task), before), "running statistics too"
    assert run.task.training


def drawn(task: Task, content: Tensor, style: Tensor, **controls: Any) -> Tensor:
    image = task.stylize(content, [Style(style)], StylizeControls(**controls)).image
    assert image is not None
    return image


def test_controls_choose_between_the_content_s_code_and_the_recombined_one():
    task = small_task(NAME).eval()
    content, style = photos(1, 64), paintings(1, 52)
    own, given = task.encode(content), task.encode(style)
    final = task.transfer(own, given)
    expected = {
        (): final,
        (("alpha", 0.0),): own,
        (("alpha", 0.25),): Code(*(a.lerp(b, 0.25) for a, b in zip(own, final, strict=True))),
        (("cont_transf", False),): Code(own.content, final.style),
        (("style_transf", False),): Code(final.content, own.style),
    }
    for controls, code in expected.items():
        assert_close(drawn(task, content, style, **dict(controls)), (task.decoder(code) + 1) / 2)


def test_the_border_of_the_content_is_drawn_further_out_and_cut_off():
    task = small_task(NAME).eval()
    content, style = photos(1, 64), paintings(1, 52)
    wide = drawn(task, pad(content, (8, 8, 8, 8), mode="reflect"), style)
    assert_close(drawn(task, content, style, pad=8), wide[..., 8:-8, 8:-8])
    large = photos(1, 256)
    assert_close(drawn(task, large, style), drawn(task, large, style, pad=8))
    with pytest.raises(ValueError, match="pad: 64 was given"):
        drawn(task, content, style, pad=64)


def test_a_tiny_picture_is_continued_until_it_has_a_style(tmp_path: Path):
    task = small_task(NAME).eval()
    with pytest.raises(ValueError, match="32 x 32 pixels, each side must have at least 48"):
        drawn(task, photos(1, 64), paintings(1, 32))
    method, task_name = find_task(NAME)
    write_model(tmp_path, task, method, task_name)
    assert load_model(tmp_path).stylize(photos(1, 17), [Style(paintings(1, 20))] * 2).shape == (1, 3, 17, 17)


def toy_crops(step: int) -> dict[str, Tensor]:
    """48 px of 8 photos and of 8 paintings, each a class of its own: two photos twice, two crops of two paintings."""
    random = torch.Generator().manual_seed(step)
    pictures = {"content": photos(8, 64), "style": paintings(8, 64)}
    batch = {}
    for name, all_of_them in pictures.items():
        chosen = torch.randperm(8, generator=random)
        chosen = chosen[:4] if name == "content" else chosen[:2].repeat_interleave(2)
        corners = torch.randint(17, (4, 2), generator=random).tolist()
        pieces = [all_of_them[n, :, y : y + 48, x : x + 48] for n, (y, x) in zip(chosen, corners, strict=True)]
        batch[name] = torch.stack(pieces)
    return batch


def toy_terms(steps: int) -> list[dict[str, float]]:
    run = small_run(NAME, batch_size=2, lr=4e-4, pool_size=50, knn=5)
    return [run.advance(toy_crops(step)) for step in range(steps)]


def test_in_a_few_steps_codes_of_what_is_drawn_come_nearer():
    """Check 12's short twin: everything is a number, and the latent cycles fall."""
    terms = toy_terms(14)
    for name in ("cont_loss", "cycle_aux_loss", "transf_loss"):
        assert sum(t[name] for t in terms[-3:]) < 0.9 * sum(t[name] for t in terms[:3]), name


@pytest.mark.slow
def test_a_toy_training_reaches_what_it_shall():
    """Check 12."""
    terms = toy_terms(800)

    def early(name: str) -> float:
        return terms[0][name]

    def late(name: str) -> float:
        return sum(t[name] for t in terms[-50:]) / 50

    figures = {name: (early(name), late(name)) for name in terms[0]}
    assert late("idt_aux_loss") < early("idt_aux_loss") / 2, figures
    for name in ("cont_loss", "cycle_aux_loss", "transf_loss"):
        assert late(name) < early(name) / 10, figures
    assert late("negative_distance") > late("positive_distance"), figures
    assert 0.2 < late("disc_loss") < 1.2, figures


def test_the_task_is_built_without_an_encoder_of_others():
    """It trains from nothing."""
    config = TrainConfig(width=8, ndf=8, res_blocks=0, content_size=48, load_size=48)
    assert isinstance(build_task(Train, config, seed=0), Train)
    assert not Train.stylize_encodes
    assert Train(config, Given(Train.needs)).model_parts == ("encoder", "transfer", "decoder")
