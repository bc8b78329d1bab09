#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh surrogate=gp
cd "$(dirname "$0")" || exit 1
exec alearn run study=predators simulation=command \
    'simulation.argv=[awk, -v, "hunger={hunger}", -v, "growth={growth}", -f, solver.awk]' \
    space='{hunger: [0.2, 1.0], growth: [0.5, 1.5]}' outputs='[prey, predators]' budget.members=30 "$@"
