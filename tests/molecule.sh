#!/bin/bash
# End to end on real systemd hosts, which are containers: all scenarios of extensions/molecule, two at a time.
#
#   tests/molecule.sh                 everything, from nothing
#   tests/molecule.sh converge -s chihaya    any other call of molecule, in the same surroundings
#
# Needs docker, and root or the right to use it. What is missing (docker, Go, mmdebstrap, ssh) is installed with apt-get when
# the user is root; docker is started when it does not run, and stopped at the end if so.
# Where it cannot run it prints one line, "SKIPPED molecule: WHY", and exits with 0; with CI=true it then exits with 1.
# Playbooks run from the built collection, installed elsewhere, of which only what Ansible needs is left.
# Images: the public ones of docker.io; where that is not reached, or with SHOAL_IMAGES=local, images are made of the
# distribution's packages. The tracker's image is built from chihaya's Go module.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
cache=$root/.cache/molecule
venv=$cache/venv
logs=$root/build/molecule-logs
mkdir -p "$cache" "$logs"
started_at=$SECONDS
say() { echo "== $((SECONDS - started_at)) s: $*"; }

exec 9>"$cache/lock"
flock 9

have() { command -v "$1" >/dev/null; }
skip() {
  echo "SKIPPED molecule: $*"
  [ "${CI:-}" = true ] && exit 1
  exit 0
}
install() {
  [ "$(id -u)" -eq 0 ] && have apt-get || skip "$* are not installed, which takes root and apt-get"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
runs() { docker info >/dev/null 2>&1; }

say "what this needs"
if ! have docker || ! runs; then
  [ "$(id -u)" -eq 0 ] || skip "no docker that this user may use"
  have dockerd || install docker.io iptables
fi
have go || install golang-go
have ssh || install openssh-client

work=$(mktemp -d)
# By which all hosts are reached; connections are kept open in a folder of this run.
export SHOAL_MOLECULE_KEY=$cache/key ANSIBLE_SSH_CONTROL_PATH_DIR=$work/ssh
[ -e "$SHOAL_MOLECULE_KEY.pub" ] || { rm -f "$SHOAL_MOLECULE_KEY"; ssh-keygen -q -t ed25519 -N '' -C molecule -f "$SHOAL_MOLECULE_KEY"; }
dockerd=
group=
leave() {
  [ -z "$group" ] || kill "$group" 2>/dev/null || true
  local socket
  for socket in "$work"/ssh/*; do
    [ ! -S "$socket" ] || ssh -q -o ControlPath="$socket" -O exit host 2>/dev/null || true
  done
  rm -rf "$work"
  if [ -n "$dockerd" ]; then
    kill "$dockerd" 2>/dev/null && wait "$dockerd" 2>/dev/null || true
  fi
}
trap leave EXIT
if ! runs; then
  # A machine without CAP_SYS_RESOURCE cannot raise the limit on open files, which docker's own default would.
  dockerd --default-ulimit nofile=1024:4096 >"$logs/dockerd.log" 2>&1 9>&- &
  dockerd=$!
  for _ in $(seq 60); do
    runs && break
    kill -0 "$dockerd" 2>/dev/null || break
    sleep 0.5
  done
  runs || { tail -20 "$logs/dockerd.log"; skip "dockerd does not start here, as it says above"; }
fi
# Each systemd takes some; the usual 128 are for a handful of hosts.
if [ "$(id -u)" -eq 0 ] && [ "$(sysctl -n fs.inotify.max_user_instances)" -lt 1024 ]; then
  sysctl -qw fs.inotify.max_user_instances=1024 || true
fi

say "molecule and the images, side by side"
python=python3
[ ! -x .venv/bin/python ] || python=.venv/bin/python
wanted=$(cksum <tests/requirements/molecule.txt)
wheelhouse=$cache/wheels
{
  if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    "$python" -m venv --clear "$venv"
    "$venv/bin/pip" --disable-pip-version-check install -q --no-compile -r tests/requirements/molecule.txt
    echo "$wanted" >"$venv/installed"
  fi
  # What agents are made of, for the Pythons of Debian 12 and 13: hosts ask no index.
  for version in 3.11 3.13; do
    "$venv/bin/pip" --disable-pip-version-check download -q --only-binary=:all: --python-version "$version" \
      --require-hashes -r roles/torrent_agent/files/requirements.lock -d "$wheelhouse"
  done
} &
virtualenv=$!
tests/chihaya.sh >"$work/tracker" &
tracker=$!

image() { docker image inspect "$1" >/dev/null 2>&1; }
declare -A image_jobs
public=docker.io/geerlingguy/docker-%s-ansible:latest
SHOAL_MOLECULE_IMAGE=$public
for distribution in debian12:bookworm debian13:trixie; do
  name=${public/\%s/${distribution%:*}}
  if [ "${SHOAL_IMAGES:-public}" = local ] || ! { image "$name" || timeout 120 docker pull -q "$name" >/dev/null 2>&1; }; then
    SHOAL_MOLECULE_IMAGE=localhost/shoal-systemd:%s
    break
  fi
done
if [ "$SHOAL_MOLECULE_IMAGE" != "$public" ]; then
  have mmdebstrap || install mmdebstrap
  for distribution in debian12:bookworm debian13:trixie; do
    extensions/molecule/images/systemd.sh "${distribution#*:}" "localhost/shoal-systemd:${distribution%:*}" \
      >"$logs/image-${distribution%:*}.log" 2>&1 &
    image_jobs[${distribution%:*}]=$!
  done
  for distribution in "${!image_jobs[@]}"; do
    wait "${image_jobs[$distribution]}" || { cat "$logs/image-$distribution.log" >&2; exit 1; }
  done
fi

wait "$tracker"
mkdir "$work/chihaya"
cp extensions/molecule/images/chihaya/Dockerfile "$(cat "$work/tracker")" "$work/chihaya/"
docker build -q -t localhost/chihaya:v2.0.0-rc.2 "$work/chihaya" >/dev/null 2>"$logs/chihaya.log" || { cat "$logs/chihaya.log" >&2; exit 1; }
SHOAL_MOLECULE_CHIHAYA=$cache/chihaya.tar
docker save localhost/chihaya:v2.0.0-rc.2 -o "$SHOAL_MOLECULE_CHIHAYA"
wait "$virtualenv"

# With what is not committed yet, unlike `make build`: somebody may be working on it.
mkdir "$work/source"
git ls-files -z --cached --others --exclude-standard | tar -c --null --files-from=- --ignore-failed-read 2>/dev/null | tar -x -C "$work/source"
"$venv/bin/ansible-galaxy" collection build --output-path "$work" "$work/source" >"$logs/collection.log"
"$venv/bin/ansible-galaxy" collection install --no-deps --offline --collections-path "$work/collections" "$work"/shoal-deploy-*.tar.gz >>"$logs/collection.log"
find "$work/collections/ansible_collections/shoal/deploy" -mindepth 1 -maxdepth 1 \
  ! -name meta ! -name plugins ! -name roles ! -name playbooks -exec rm -r {} +
export SHOAL_MOLECULE_IMAGE SHOAL_MOLECULE_CHIHAYA SHOAL_MOLECULE_WHEELHOUSE=$wheelhouse
export PATH=$venv/bin:$PATH MOLECULE_COMMAND_BORDERS=0
export ANSIBLE_COLLECTIONS_PATH=$work/collections
export SHOAL_MODULE_CACHE=$work/modules ANSIBLE_CALLBACK_PLUGINS=$root/tests/callback_plugins ANSIBLE_CALLBACKS_ENABLED=module_cache
[ -t 1 ] || export NO_COLOR=1 ANSIBLE_FORCE_COLOR=0

# Two groups beside each other, as each waits a lot: for services, for health, for links that are narrow. `rollout` has
# its tracker on a host of `chihaya`, so they are of one group; the other one has the rest.
trackers=(chihaya rollout)
others=()
for scenario in extensions/molecule/*/molecule.yml; do
  scenario=$(basename "${scenario%/molecule.yml}")
  [[ " default ${trackers[*]} " == *" $scenario "* ]] || others+=("$scenario")
done
# The shop's archive is built here, and runs on hosts with the same Python.
case $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
  3.11) export SHOAL_MOLECULE_FLEET=debian12 ;;
  3.13) export SHOAL_MOLECULE_FLEET=debian13 ;;
  *)
    [ "${CI:-}" != true ] || skip "the scenario rollout takes Python 3.11 or 3.13 here, as Debian's hosts have"
    echo "SKIPPED molecule rollout: it takes Python 3.11 or 3.13 here, as Debian's hosts have"
    trackers=(chihaya)
    ;;
esac

if [ $# -gt 0 ]; then
  molecule "$@"
  exit
fi

tell_why() {
  local host
  for host in $(docker ps --all --filter label=shoal=molecule --format '{{.Names}}'); do
    echo "-- journal of $host"
    docker exec "$host" journalctl --no-pager --lines=80 2>&1 || true
    echo "-- containers of $host"
    docker exec "$host" sh -c 'for engine in docker podman; do
      command -v $engine >/dev/null || continue; $engine ps --all; $engine logs --tail 40 chihaya; done' 2>&1 || true
  done >"$logs/hosts.log"
  tail -n 400 "$logs/hosts.log"
}

# As `molecule destroy -s default`, which looks at one host after the other.
destroy() {
  docker ps --all --quiet --filter label=shoal=molecule | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
  docker network ls --quiet --filter name=shoal-molecule | xargs --no-run-if-empty docker network rm >/dev/null
}

say "molecule"
destroy # hosts of a run that was killed
molecule reset -s default >"$logs/reset.log" 2>&1 || cat "$logs/reset.log"
molecule create -s default >"$logs/create.log" 2>&1 || { cat "$logs/create.log"; exit 1; }
say "the hosts are there: ${trackers[*]} beside ${others[*]}"
run() { molecule test "${@/#/--scenario-name=}" --destroy=never --report; }
status=0
run "${trackers[@]}" >"$logs/trackers.log" 2>&1 &
group=$!
run "${others[@]}" || status=$?
say "${others[*]}: $status; what ${trackers[*]} say:"
wait "$group" || status=$?
group=
cat "$logs/trackers.log"
if [ "$status" -ne 0 ]; then
  say "failed: what the hosts say, all of it in ${logs#"$root"/}/hosts.log"
  tell_why
fi
say "away with the hosts"
destroy
say "done"
exit "$status"
