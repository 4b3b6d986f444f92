#!/bin/sh
# Makes the virtualenv that everything in this checkout runs from, and installs what is pinned into it.
#
#   tests/venv.sh demo    what `make demo` needs
#   tests/venv.sh test    what `make test` needs; the demo's things included
#
# VENV says where (default: .venv), PYTHON which interpreter to make it of. Done already = done in no time.
set -eu
cd "$(dirname "$0")/.."

wanted=${1:-demo}
venv=${VENV:-.venv}
package=roles/torrent_agent/files
case $wanted in
  demo | test) ;;
  *) echo "tests/venv.sh: '$wanted' is neither demo nor test" >&2; exit 2 ;;
esac

# Suitable = a Python that ansible-core and libtorrent's wheels both support, able to make a virtualenv.
# Run, not looked up: a pyenv shim or a half-installed package has the name and does not work.
suitable() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if suitable "$python"; then
      return 0
    fi
  done
  return 1
}

install_python() {
  if [ -n "${PYTHON:-}" ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    return 1
  fi
  echo "No Python 3.11 to 3.13 with venv here: installing one with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  for name in python3-venv python3.13-venv python3.12-venv python3.11-venv; do
    if apt-get install -y -qq "$name" >/dev/null 2>&1 && find_python; then
      return 0
    fi
  done
  return 1
}

sum=$(cat tests/venv.sh tests/zip_bytecode.py tests/requirements/*.txt "$package/requirements.txt" "$package/shoal/pyproject.toml" | cksum)
stamp=$venv/installed
if suitable "$venv/bin/python" && [ -f "$stamp" ]; then
  case $wanted:$(cat "$stamp") in
    "demo:demo $sum" | "demo:test $sum" | "test:test $sum") exit 0 ;;
  esac
fi

if ! suitable "$venv/bin/python"; then
  if ! find_python && ! install_python; then
    echo "This needs Python 3.11, 3.12 or 3.13 with its venv module, and found none that works" >&2
    echo "(looked for: ${PYTHON:-python3, python3.13, python3.12, python3.11}). Install one, on Debian and Ubuntu with" >&2
    echo "'apt-get install python3-venv', or name one: PYTHON=/path/to/python3.12 make $wanted" >&2
    exit 1
  fi
  "$python" -m venv --clear "$venv"
fi

echo "Installing into $venv ($("$venv/bin/python" --version)): tests/requirements/$wanted.txt and the package shoal"
rm -f "$stamp"
"$venv/bin/python" -m pip --disable-pip-version-check install -q \
  --requirement "tests/requirements/$wanted.txt" --editable "$package/shoal"
if [ "$wanted" = test ]; then
  for packages in "$venv"/lib/python3.*/site-packages; do
    cp tests/zip_bytecode.py "$packages"
    echo "import zip_bytecode" >"$packages/zip_bytecode.pth"
  done
fi
echo "$wanted $sum" >"$stamp"
