"""An acquisition for one question: for which parameters does the pendulum pass the top? The edge is at angle = pi.

The score is the "straddle" of B. Bryan et al., Active Learning for Identifying Function Level Boundaries, NIPS 2005:
large where the prediction is near the threshold or unsure.
"""

import math


def straddle(surrogate, X, context):
    posterior = surrogate.posterior(X.unsqueeze(1))  # X: N x d in the unit cube; one prediction for each row
    mean = posterior.mean.squeeze(1)  # N x m, the m values of a whole trajectory
    std = posterior.variance.squeeze(1).sqrt()
    return (1.96 * std - (mean - math.pi).abs()).amax(-1)  # N scores, larger is better
