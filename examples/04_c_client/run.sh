#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh surrogate=gp
cd "$(dirname "$0")" || exit 1
"${CC:-gcc}" -O2 -Wall -I"$(python -m alearn.clients)" front.c -o front -lm || exit 1
exec alearn run study=front simulation=command simulation.format=client 'simulation.argv=[./front]' \
    space='{threshold: [0.1, 0.8], growth: [0.3, 2.0]}' outputs='[front]' budget.members=30 "$@"
