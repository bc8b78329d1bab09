"""Network surrogates whose gradients several processes compute together (see ``alearn.placement.ranks``)."""

from __future__ import annotations

from torch import Tensor

from alearn.surrogate.base import Batch, Partners
from alearn.surrogate.network import NetworkSurrogate


class ParallelSurrogate(NetworkSurrogate):
    """A network surrogate whose shape never changes, so that other processes can hold the same networks."""

    def work_with(self, partners: Partners | None) -> None:
        """Make every update from now on with these."""
        self._partners = partners

    def trained(self) -> list[Tensor]:
        """The networks' parameters that updates change."""
        return [p for p in self.net.parameters() if p.requires_grad]

    def framed(self) -> tuple[int, dict[str, Tensor]]:
        """Normalisation and fixed networks, and how often they changed."""
        s = self.scaling
        state = {f"scaling.{name}": t for name, t in (("mean", s.mean), ("scale", s.scale), ("t_range", s.t_range))}
        fixed = {} if self.prior is None else {f"prior.{name}": t for name, t in self.prior.state_dict().items()}
        return sum(t._version for t in (*state.values(), *fixed.values())), state | fixed

    def contribute(self, batch: Batch) -> None:
        """Compute the gradients of the networks as they are, and update nothing."""
        self.net.zero_grad(set_to_none=True)
        x, y, w = self._prepare(batch)
        self._loss(self.net, x, y, w).sum().backward()
