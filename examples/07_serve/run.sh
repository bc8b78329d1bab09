#!/bin/sh
# A small study, its export, and one question to the served surrogate. Arguments are further overrides of the study.
set -e
cd "$(dirname "$0")"
here="$PWD"
work="$(mktemp -d)"
alearn run study=pendulum simulation=python simulation.target=../01_generator/pendulum.py:pendulum \
    space='{push: [0, 4], friction: [0.05, 0.5]}' budget.members=8 hydra.run.dir="$work/study" "$@"
alearn export "$work/study" --to "$work/surrogate" --format torch
python "$here/serve.py" "$work/surrogate" 0 >"$work/log" &
server=$!
trap 'kill $server; rm -rf "$work"' EXIT
while ! grep -q http "$work/log"; do
    kill -0 "$server"
    sleep 0.2
done
python -c 'import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], data=b"""{"push": 1.0, "friction": 0.2, "t": 3.0}""", timeout=60).read().decode())' \
    "$(sed 's/.* on //' "$work/log")"
