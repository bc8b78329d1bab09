#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh surrogate=gp
cd "$(dirname "$0")" || exit 1
clients="$(python -m alearn.clients)"
"${CC:-gcc}" -O2 -c "$clients/alearn_fortran.c" || exit 1
"${FC:-gfortran}" -O2 "$clients/alearn_client.f90" rod.f90 alearn_fortran.o -o rod -lm || exit 1
exec alearn run study=rod simulation=command simulation.format=client 'simulation.argv=[./rod]' \
    space='{conductivity: [0.2, 2.0], spot: [0.1, 0.9]}' outputs='[hottest, mean]' budget.members=30 "$@"
