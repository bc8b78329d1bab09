"""What the solver's files mean: one profile, one time step."""


def step(path):
    header, *rows = path.read_text().splitlines()
    u = [float(row.split()[1]) for row in rows]
    return {"t": float(header.split()[2]), "u": u, "middle": u[len(u) // 2], "heat": sum(u)}
