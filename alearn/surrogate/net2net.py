"""Larger networks that compute what the smaller ones did: wider and deeper without forgetting (Net2Net: Chen et al. 2016).

Wider: a new unit copies an old one, and what the old one passed on is shared between them, in unequal parts so that the copies
part ways in training. Deeper: a new layer of a residual body starts as nothing; that of another body carries every unit z of the
layer before as the pair z and -z, because act(z) - act(-z) = z for silu, gelu and relu, which takes twice the width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alearn.errors import ConfigError
from alearn.surrogate.stacked import StackedMLP

PAIRED = ("silu", "gelu", "relu")
"""Activations for which act(z) - act(-z) = z."""


def may_deepen(activation: str, body: str, widening: float) -> bool:
    """Whether a layer can be added with the function kept, when the width grows by a factor of ``widening``."""
    return body == "residual" or (activation in PAIRED and body != "siren" and widening >= 2)


@torch.no_grad()
def grow(old: StackedMLP, new: StackedMLP, seed: int) -> None:
    """Give ``new``, as wide or wider and at most one layer deeper, the function of ``old``.

    Args:
        old: K networks.
        new: as many of the same inputs, outputs, activation and body.
        seed: of the copies; the same seed grows a stack and its average alike.

    Raises:
        ConfigError: there is no such function-preserving growth.
    """
    w, width = old.width, new.width
    added = new.depth - old.depth
    if width < w or added not in (0, 1) or (added and not (old.residual or width >= 2 * w)):
        raise ConfigError(
            f"Networks of width {w} and depth {old.depth} cannot become {width} wide and {new.depth} deep with their function kept."
        )
    generator = torch.Generator().manual_seed(seed)
    copied = torch.cat([torch.arange(w), torch.randint(w, (width - w,), generator=generator)])
    part = 0.5 + torch.rand(width, generator=generator)
    share = (part / torch.zeros(w).index_add_(0, copied, part)[copied]).to(old.weights[0])
    copied = copied.to(old.weights[0].device)
    weights, biases = [t.detach() for t in old.weights], [t.detach() for t in old.biases]
    for i in range(old.depth):
        before = weights[i] if i == 0 else weights[i][:, copied] * share[:, None]
        _put(new, i, before[:, :, copied], biases[i][:, :, copied])
    last = weights[-1]
    if added and old.residual:
        zero = torch.zeros(new.estimators, width, width).to(last)
        _put(new, old.depth, zero, zero[:, :1])
        last = last[:, copied] * share[:, None] * math.sqrt(2.0)  # the layer that adds nothing has scaled by sqrt(1/2)
    elif added:
        gather = torch.zeros(width, w).to(last)
        gather[torch.arange(width), copied] = share
        pairs = torch.zeros(new.estimators, width, width).to(last)
        pairs[:, :, :w], pairs[:, :, w : 2 * w] = gather, -gather
        # units beyond the pairs are new: they listen, and nobody listens to them yet
        rest = torch.randn(new.estimators, width, width - 2 * w, generator=generator).to(last) * math.sqrt(2.0 / width)
        pairs[:, :, 2 * w :] = rest
        _put(new, old.depth, pairs, torch.zeros(new.estimators, 1, width).to(last))
        last = torch.cat([last, -last, last.new_zeros(new.estimators, width - 2 * w, last.shape[2])], dim=1)
    else:
        last = last[:, copied] * share[:, None]
    _put(new, new.depth, last, biases[-1])
    if old.frequency is not None and old.phase is not None and new.frequency is not None and new.phase is not None:
        new.frequency.copy_(old.frequency)
        new.phase.copy_(old.phase)


def _put(stack: StackedMLP, layer: int, weight: Tensor, bias: Tensor) -> None:
    stack.weights[layer].data.copy_(weight)
    stack.biases[layer].data.copy_(bias)
