#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh budget.members=60 control.enabled=true
cd "$(dirname "$0")" || exit 1
exec alearn run study=pendulum simulation=python simulation.target=pendulum.py:pendulum \
    space='{push: [0, 4], friction: [0.05, 0.5]}' budget.members=40 "$@"
