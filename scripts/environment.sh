# Makes an environment with the package and the given extras, once. Sourced by the scripts next to it.
#
#   source scripts/environment.sh EXTRAS                      makes .venv
#   bash scripts/environment.sh EXTRAS FOLDER PACKAGE...      makes FOLDER, with more packages
#
# The stamp in it holds the hash of what decides the installation; a second run starts at once.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m==> %s\033[0m\n' "$*"; }

make_environment() {
    local extras="$1" folder="${2:-.venv}" python="${PYTHON:-python3.11}" stamp
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$0: needs Python 3.11 or newer as '$python'; install it, or name one: PYTHON=... $0" >&2
        exit 1
    fi
    stamp="$extras $({ cat setup.cfg setup.py pyproject.toml; printf '%s' "${*:3}"; } | \
        "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    if [[ -x $folder/bin/python ]] && grep -qxF "$stamp" "$folder/install-stamp" 2>/dev/null; then
        return
    fi
    if [[ ! -x $folder/bin/python ]]; then
        say "making $folder with $("$python" --version)"
        "$python" -m venv "$folder"
    fi
    say "installing nested_fad_tf[$extras] (TensorFlow is large: a few minutes the first time)"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable ".[$extras]" "${@:3}"
    # Extras add up in one folder, so stamps of the same installation may stand side by side.
    [[ "$(tail -n1 "$folder/install-stamp" 2>/dev/null | cut -d' ' -f2)" == "${stamp#* }" ]] || \
        : > "$folder/install-stamp"
    echo "$stamp" >> "$folder/install-stamp"
}

make_environment "$@"
