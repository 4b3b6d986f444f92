#!/usr/bin/env bash
# Makes a container image in which systemd runs, of one Debian release, from the distribution's own packages: no
# registry of images is asked.
#
#   systemd.sh SUITE TAG        e.g. systemd.sh trixie localhost/shoal-systemd:debian13
#
# Needs root, mmdebstrap and docker. An image that is up to date is left alone.
set -euo pipefail

suite=$1 tag=$2
packages=systemd,systemd-sysv,dbus,python3,python3-apt,ca-certificates,iproute2,iptables,openssh-server,procps,sudo
# What a container has no use for, or cannot have.
masked=(apt-daily-upgrade.timer apt-daily.timer console-getty.service dev-hugepages.mount dpkg-db-backup.timer
  e2scrub_all.timer fstrim.timer getty.target sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
  systemd-logind.service systemd-resolved.service systemd-timesyncd.service systemd-udev-trigger.service
  systemd-udevd.service)

made_of=$({ cat "$0"; echo "$suite"; } | sha256sum | cut -c1-12)
if [ "$(docker image inspect --format '{{index .Config.Labels "made_of"}}' "$tag" 2>/dev/null)" = "$made_of" ]; then
  exit 0
fi

tar=$(mktemp --tmpdir "shoal-$suite.XXXXXX")
trap 'rm -f "$tar"' EXIT
# The package lists stay in: hosts install packages without an update of their own, and the apt module's
# cache_valid_time, which looks at the age of the lists' folder, tells the truth.
build() {
  mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" --skip=cleanup/apt/lists \
    --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "5"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --customize-hook="chroot \"\$1\" systemctl mask ${masked[*]} >/dev/null 2>&1" \
    --customize-hook='chroot "$1" systemctl set-default multi-user.target >/dev/null 2>&1' \
    --customize-hook='rm -f "$1/etc/hostname" "$1/etc/resolv.conf"; : >"$1/etc/machine-id"' \
    "$suite" "$tar"
}
for try in 1 2 3; do
  build && break
  [ "$try" != 3 ] || exit 1
done

docker import --message "$suite" "$tar" "$tag-files" >/dev/null
# `docker import` has no way to set the signal that stops systemd.
docker build --quiet --tag "$tag" - >/dev/null <<DOCKERFILE
FROM $tag-files
ENV container=docker LC_ALL=C.UTF-8
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
LABEL made_of=$made_of
DOCKERFILE
