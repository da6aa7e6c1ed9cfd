# Sourced by scripts/demo and scripts/test: a virtual environment with the package in it.
# usage: . scripts/environment.sh EXTRA

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -x .venv/bin/python ]; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "error: $(python3 --version) found; Python 3.11 or newer is needed" >&2
            exit 1
        }
        echo "making .venv" >&2
        python3 -m venv .venv
    fi
    . .venv/bin/activate
fi
echo "installing into $VIRTUAL_ENV (the first time takes a few minutes)" >&2
python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$1]"
