# Sourced by scripts/demo and scripts/test: enter the repository root, use the active virtual
# environment or .venv, and install the package there with the extra that the caller names.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

use_environment() {
    if [[ -n "${VIRTUAL_ENV:-}" ]]; then
        export PATH="$VIRTUAL_ENV/bin:$PATH"
    else
        if [[ ! -x .venv/bin/python ]] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
            if ! command -v python3 >/dev/null; then
                echo "no python3 found; install Python 3.11 or newer" >&2
                exit 1
            fi
            if ! new_enough python3; then
                echo "python3 is $(python3 -V 2>&1); compressae needs Python 3.11 or newer" >&2
                exit 1
            fi
            echo "making a virtual environment in $root/.venv" >&2
            python3 -m venv --clear .venv
        fi
        export VIRTUAL_ENV="$root/.venv" PATH="$root/.venv/bin:$PATH"
    fi
    if ! new_enough python; then
        echo "$VIRTUAL_ENV has $(python -V 2>&1); compressae needs Python 3.11 or newer" >&2
        exit 1
    fi
}

# A stamp in the environment says what was installed last, so that a second run needs no network.
install_package() {
    local extra="$1" stamp="$VIRTUAL_ENV/.compressae-installed" wanted
    wanted="$extra $(cat pyproject.toml constraints.txt | cksum) $root"
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]] && python -m pip show -q compressae; then
        return
    fi
    echo "installing compressae[$extra] into $VIRTUAL_ENV" >&2
    rm -f "$stamp"
    python -m pip install -q -c constraints.txt -e ".[$extra]"
    echo "$wanted" >"$stamp"
}
