#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh surrogate=gp
cd "$(dirname "$0")" || exit 1
exec alearn run study=rod simulation=command simulation.format=client simulation.ranks=2 \
    'simulation.argv=[python, rod.py]' \
    space='{kappa: [0.1, 0.45], centre: [0.2, 0.8]}' outputs='[hottest]' budget.members=20 "$@"
