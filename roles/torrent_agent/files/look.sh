# Tells what a host is, which versions of the agent are current and before it, and which Pythons there are, as JSON.
# Arguments: the folder of the versions; names or paths of interpreters.
# What the service runs must belong to root, and lie where the service can see it.
set -u
folder=$1
shift
separator=
printf '{"current": "%s", "previous": "%s", ' "$(readlink "$folder/current")" "$(readlink "$folder/previous")"
printf '"machine": "%s", "uid": %s, "has_apt": %s, "system": "%s", "pythons": [' "$(uname -m)" "$(id -u)" \
  "$(command -v apt-get >/dev/null && echo true || echo false)" \
  "$(. /etc/os-release 2>/dev/null; printf %s "${PRETTY_NAME:-an unknown system}" | tr -d '"\\')"
for name in "$@"; do
  path=$(command -v "$name") || continue
  path=$(readlink -f "$path")
  trusted=$([ "$(stat -c %u "$path")" = 0 ] && echo true || echo false)
  hidden=$(case $path in /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*) echo true ;; *) echo false ;; esac)
  told=$("$path" -c 'import json, platform, sys
def has(name):
    try:
        __import__(name)
    except Exception:
        return False
    return True
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2], "cpython": platform.python_implementation() == "CPython",
    "venv": has("venv"), "ensurepip": has("ensurepip"), "prefix": sys.prefix == getattr(sys, "base_prefix", sys.prefix),
})[1:-1])' 2>/dev/null) || continue
  printf '%s{"path": "%s", "trusted": %s, "hidden": %s, %s}' "$separator" "$path" "$trusted" "$hidden" "$told"
  separator=', '
done
echo ']}'
