#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh control.enabled=true
cd "$(dirname "$0")" || exit 1
exec alearn run study=threshold simulation=python simulation.target=pendulum.py:pendulum \
    space='{push: [0, 4], friction: [0.05, 0.5]}' acquisition=python acquisition.target=threshold.py:straddle \
    budget.members=40 "$@"
