# Sourced by the other scripts: makes .venv with alearn in it, once for each state of the requirements.
# Usage: . scripts/_venv.sh; make_venv [EXTRA]

say() { printf '\033[1m[alearn]\033[0m %s\n' "$*"; }

find_python() {
    local name
    for name in "${ALEARN_PYTHON:-}" python3.12 python3.13 python3.11 python3; do
        [ -n "$name" ] || continue
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    echo "alearn needs Python 3.11, 3.12 or 3.13 with venv; none was found. Install one, or name it: ALEARN_PYTHON=/path/to/python $0" >&2
    return 1
}

make_venv() {
    local extra="${1:-}" python stamp want
    want="$(cat pyproject.toml constraints.txt scripts/_venv.sh | cksum | cut -d' ' -f1)"
    stamp=".venv/.alearn-installed${extra:+-$extra}"
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && .venv/bin/python -c 'import alearn' 2>/dev/null; then
        say ".venv is up to date"
        return 0
    fi
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys' 2>/dev/null; then
        python="$(find_python)"
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    say "installing alearn${extra:+ with the extra '$extra'} (a few minutes the first time: torch is large)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
    echo "$want" >"$stamp"
}
