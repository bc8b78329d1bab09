"""Heat in a rod, cut into as many pieces as there are MPI ranks: each rank streams its own."""

import numpy as np
from mpi4py import MPI

from alearn.clients.mpi import Block, connect

N = 64

with connect(MPI.COMM_WORLD, default={"kappa": 0.3, "centre": 0.4}, units={"u": "K"}) as run:
    first, last = N * run.rank // run.size, N * (run.rank + 1) // run.size
    x = (np.arange(first - 1, last + 1) + 0.5) / N  # with one ghost cell at each end
    u = np.exp(-(((x - run.parameters["centre"]) / 0.1) ** 2))
    left = run.rank - 1 if run.rank > 0 else MPI.PROC_NULL
    right = run.rank + 1 if run.rank < run.size - 1 else MPI.PROC_NULL
    for step in range(101):
        if step % 10 == 0:
            hottest = MPI.COMM_WORLD.allreduce(u[1:-1].max(), op=MPI.MAX)
            run.put(t=step / 100, u=Block(u[1:-1], offset=(first,), shape=(N,)), hottest=hottest)
        u[0], u[-1] = u[1], u[-2]
        MPI.COMM_WORLD.Sendrecv(u[1:2].copy(), dest=left, recvbuf=u[-1:], source=right)
        MPI.COMM_WORLD.Sendrecv(u[-2:-1].copy(), dest=right, recvbuf=u[:1], source=left)
        u[1:-1] += run.parameters["kappa"] * (u[:-2] - 2 * u[1:-1] + u[2:])
