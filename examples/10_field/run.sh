#!/bin/sh
# Arguments are further overrides, e.g. ./run.sh budget.members=60 control.enabled=true
cd "$(dirname "$0")" || exit 1
exec alearn run study=channel simulation=python simulation.target=channel.py:channel \
    space='{speed: [0.1, 0.8], spread: {low: 1e-4, high: 1e-2, scale: log}, stick: [0, 4]}' \
    'outputs=[c]' reference=8 budget.members=32 "$@"
