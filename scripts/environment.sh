# Sourced by scripts/demo and scripts/test: a virtual environment with the package in it.
# usage: . scripts/environment.sh EXTRA

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "error: $(python3 --version) found; Python 3.11 or newer is needed" >&2
            exit 1
        }
        echo "making .venv" >&2
        python3 -m venv --clear .venv
    fi
    VIRTUAL_ENV="$PWD/.venv"
fi
export VIRTUAL_ENV PATH="$VIRTUAL_ENV/bin:$PATH"
# OpenMP threads sleep while they wait: on a busy machine threads that spin take many times as long.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

# A stamp says what was installed last, so that a second run needs no network.
stamp="$VIRTUAL_ENV/.compressae-$1"
fingerprint="$(cat pyproject.toml constraints.txt | cksum) $PWD"
if [ "$(cat "$stamp" 2>/dev/null)" != "$fingerprint" ]; then
    echo "installing into $VIRTUAL_ENV (the first time takes a minute or more)" >&2
    # PyPI's torch for Linux brings gigabytes of CUDA: without a GPU take its CPU build.
    if [ "$(uname -s)" = Linux ] && [ ! -e /dev/nvidiactl ] && ! python -m pip show -q torch 2>/dev/null; then
        python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 15 --no-deps \
            -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch 2>/dev/null ||
            echo "no CPU build of torch can be had from download.pytorch.org: taking PyPI's" >&2
    fi
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$1]"
    # Not every machine has wheels of these, or a compiler for annoy: a report says which are missing.
    for library in annoy rabitqlib scann turbovec; do
        python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$library" ||
            echo "$library was not installed; a report leaves that baseline out" >&2
    done
    echo "$fingerprint" >"$stamp"
fi
