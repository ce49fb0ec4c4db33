#!/bin/sh
# Make the virtual environment $1 with the interpreter $2 (or the first that is new enough) and install Langwright in it.
set -eu
venv=$1
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

if ! "$venv/bin/python" -c "$new_enough" 2>/dev/null; then
    found=
    for python in ${2:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$python" -c "$new_enough" 2>/dev/null; then
            found=$python
            break
        fi
    done
    if [ -z "$found" ]; then
        echo "langwright needs Python 3.11 or newer, and ${2:-python3} is $("${2:-python3}" -V 2>&1 || true);" \
            "install one and name it: make PYTHON=/path/to/python3.12 ..." >&2
        exit 1
    fi
    echo "making $venv with $found"
    "$found" -m venv --clear "$venv"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
pip="$venv/bin/python -m pip"
torch=$(grep '^torch==' constraints.txt)

# PyTorch first, where it is small: a wheel that pip knows on this disk, or, on Linux without an NVIDIA card, the build
# without several GB of CUDA. If neither is to be had, the ordinary index serves.
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    $pip install --quiet --no-index --no-deps "$torch" 2>/dev/null ||
        if [ "$(uname)" = Linux ] && [ ! -e /dev/nvidiactl ]; then
            $pip install --no-deps --retries 0 --timeout 15 \
                --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null || true
        fi
fi

echo "installing langwright and what its tests need (some minutes the first time)"
$pip install --quiet --constraint constraints.txt --editable '.[test]'

# A browser for the tests of the chat page, which pip cannot bring.
if [ ! -x /usr/bin/chromium ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing Chromium"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install --no-install-recommends chromium; } >/dev/null ||
        echo "without Chromium the tests of the chat page are skipped" >&2
fi
