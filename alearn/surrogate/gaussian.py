"""Normal posteriors from means and covariances of separate outputs."""

from __future__ import annotations

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from torch import Tensor

JITTER = 1e-8
"""Added to the diagonal of a covariance, in units of its mean diagonal."""


def normal_posterior(
    mean: Tensor, covariance: Tensor, output_indices: list[int] | None = None, posterior_transform: PosteriorTransform | None = None
) -> Posterior:
    """The joint normal posterior of independent outputs.

    Args:
        mean: ``batch_shape x m x q``.
        covariance: ``batch_shape x m x q x q``.
        output_indices: the outputs wanted; None is all.
        posterior_transform: applied to the posterior.
    """
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    covariance = covariance + (JITTER * diagonal.mean(dim=-1, keepdim=True).unsqueeze(-1).clamp_min(1e-300)) * torch.eye(
        covariance.shape[-1], dtype=covariance.dtype, device=covariance.device
    )
    if output_indices is not None:
        mean, covariance = mean[..., output_indices, :], covariance[..., output_indices, :, :]
    joint = (
        MultitaskMultivariateNormal.from_batch_mvn(MultivariateNormal(mean, covariance))
        if mean.shape[-2] > 1
        else MultivariateNormal(mean.squeeze(-2), covariance.squeeze(-3))
    )
    posterior: Posterior = GPyTorchPosterior(joint)
    return posterior if posterior_transform is None else posterior_transform(posterior)
