"""The two sides of an adversarial training whose discriminators also tell classes, and who of them moves when.

Sources: Goodfellow et al. 2014 (arXiv:1406.2661) and Mao et al. 2017 (arXiv:1611.04076) for the losses; Odena et al.
2017 (arXiv:1610.09585) for classes told by a discriminator; Sanakoyeu et al. 2018 (arXiv:1807.10201) for the gate.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from stylemodels.features import at_least_float32

AdversarialForm = Literal["bce", "lsgan"]


class Verdict(NamedTuple):
    """What a discriminator says of N pictures or codes."""

    logits: Tensor  # (N, 1, h, w): real (above 0, with least squares above 1/2) or not, place by place
    classes: Tensor | None  # (N, classes) logits; None from a discriminator that tells no classes


def adversarial_loss(form: AdversarialForm, verdict: Verdict, *, real: bool) -> Tensor:
    """How far every place of a verdict is from "real" (or from "not real"), a scalar.

    bce: -log D, or -log(1 - D), of D = sigmoid(logits); for a generator this is the form that does not saturate.
    lsgan: (D - 1)^2, or D^2, of D = logits.
    """
    logits = at_least_float32(verdict.logits)
    target = torch.full_like(logits, float(real))
    return binary_cross_entropy_with_logits(logits, target) if form == "bce" else mse_loss(logits, target)


def discriminator_loss(form: AdversarialForm, real: Verdict, fake: Verdict) -> Tensor:
    """What a discriminator minimises: -log D(real) - log(1 - D(fake)), or its least squares."""
    return adversarial_loss(form, real, real=True) + adversarial_loss(form, fake, real=False)


def wins(form: AdversarialForm, verdict: Verdict, *, real: bool) -> Tensor:
    """The share of places at which a discriminator is right, a scalar."""
    threshold = 0.0 if form == "bce" else 0.5
    return at_least_float32((verdict.logits > threshold) == real).mean()


def accuracy(form: AdversarialForm, real: Verdict, fake: Verdict) -> Tensor:
    """The share of right places in two verdicts that count the same, a scalar."""
    return (wins(form, real, real=True) + wins(form, fake, real=False)) / 2


def class_terms(name: str, verdict: Verdict, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and share of right answers as `<name>_loss` and `<name>_accuracy`, if classes are told at all.

    labels: (N,), int64.
    """
    if verdict.classes is None:
        return {}
    classes = at_least_float32(verdict.classes)
    right = at_least_float32(classes.argmax(1) == labels).mean()
    return {f"{name}_loss": cross_entropy(classes, labels), f"{name}_accuracy": right}


class Gate(nn.Module):
    """Who moves next, so that a discriminator comes to win the share `target` of its judgements."""

    rate: Tensor  # running share of wins, a scalar

    def __init__(self, target: float, momentum: float) -> None:
        """target: below 0 there is no gate, both sides move each time. momentum: what the newest share counts."""
        super().__init__()
        self.target, self.momentum = target, momentum
        self.register_buffer("rate", torch.tensor(max(target, 0.0)))

    def movers(self) -> tuple[bool, bool]:
        """Whether the discriminator moves, and whether the generator does."""
        if self.target < 0:
            return True, True
        waits = bool(self.rate >= self.target)
        return not waits, waits

    def count(self, share: Tensor) -> None:
        """share: of the last judgements, in which the discriminator was right; a scalar."""
        self.rate.lerp_(share.to(self.rate), self.momentum)
