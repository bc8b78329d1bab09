#!/bin/sh
# ./run.sh sst or ./run.sh files; further arguments are overrides, e.g. ./run.sh sst surrogate=gp
cd "$(dirname "$0")" || exit 1
how="${1:-sst}"
[ $# -gt 0 ] && shift
case "$how" in sst) transport=adios_sst ;; files) transport=adios_bp ;; *) echo "usage: run.sh sst|files" >&2; exit 2 ;; esac
adios="$(python -c 'import importlib.util as u; print(u.find_spec("adios2").submodule_search_locations[0])')" || exit 1
"${CC:-gcc}" -O2 -Wall -I"$adios/include" spill.c -o spill -L"$adios" -ladios2_c -ladios2_core -lm -Wl,-rpath,"$adios" \
    -Wl,-rpath-link,"$adios:$adios/../adios2.libs" || exit 1
exec alearn run study=spill simulation=command simulation.format=adios2 transport=$transport \
    "simulation.argv=[./spill,$how.xml,'{dispersion}','{decay}']" \
    space='{dispersion: [5, 60], decay: [0.0, 0.4]}' outputs='[peak]' budget.members=24 "$@"
