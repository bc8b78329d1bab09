#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh surrogate=gp
cd "$(dirname "$0")" || exit 1
exec alearn run study=files simulation=command \
    'simulation.argv=[./solver.sh, "{kappa}"]' \
    'simulation.collect={files: "profile_*.dat", reader: "read.py:step"}' \
    space='{kappa: [0.05, 0.45]}' outputs='[middle, heat]' budget.members=20 "$@"
