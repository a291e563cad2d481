# Sourced by the scripts next to it: makes .venv with the package and the given extras, once.
#
#   source scripts/environment.sh EXTRAS
#
# The stamp in .venv holds the hash of what decides the installation; a second run starts at once.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

make_environment() {
    local extras="$1" python="${PYTHON:-python3.11}" stamp
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$0: needs Python 3.11 or newer as '$python'; install it, or name one: PYTHON=... $0" >&2
        exit 1
    fi
    stamp="$extras $(cat setup.cfg setup.py pyproject.toml | "$python" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    if [[ -x .venv/bin/python ]] && grep -qxF "$stamp" .venv/install-stamp 2>/dev/null; then
        return
    fi
    if [[ ! -x .venv/bin/python ]]; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    say "installing nested_fad_tf[$extras] (TensorFlow is large: a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    # Extras add up in one .venv, so stamps of the same installation may stand side by side.
    [[ "$(tail -n1 .venv/install-stamp 2>/dev/null | cut -d' ' -f2)" == "${stamp#* }" ]] || \
        : > .venv/install-stamp
    echo "$stamp" >> .venv/install-stamp
}

make_environment "$1"
