#!/bin/bash
# Builds the real chihaya from what the Go module proxy serves with all it needs: v2.0.0-rc.2, and of the branch main the
# newest commit there is, of 2022, whose configuration is today's. (v1.0.2 imports modules that no proxy has.)
#
#   tests/chihaya.sh [VERSION]    prints the path of the program, building it when it is not there
#
# VERSION: main or v2.0.0-rc.2 (the default).
# Go: any version from 1.19 (Debian 12's); installed with apt-get when it is missing and the user is root.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-v2.0.0-rc.2}
source=extensions/molecule/images/chihaya/$version
[ -d "$source" ] || { echo "chihaya $version: unknown, expected main or v2.0.0-rc.2" >&2; exit 2; }
target=$PWD/.cache/chihaya/$(cat "$source"/go.* "$source"/tools.go | cksum | cut -d' ' -f1)
mkdir -p .cache/chihaya
exec 9>.cache/chihaya/lock
flock 9

if [ ! -x "$target/chihaya" ]; then
  if ! command -v go >/dev/null; then
    [ "$(id -u)" -eq 0 ] || { echo "building chihaya needs Go: apt-get install golang-go" >&2; exit 1; }
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends golang-go; } >&2
  fi
  mkdir -p "$target"
  (
    cd "$source"
    export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=local
    go build -trimpath -ldflags '-s -w' -o "$target/chihaya.new" github.com/chihaya/chihaya/cmd/chihaya >&2
  )
  mv "$target/chihaya.new" "$target/chihaya"
fi
echo "$target/chihaya"
