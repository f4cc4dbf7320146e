# Sourced by the commands of this folder: brings a bare Debian 12 to where they can run.
# need_packages NAME...  installs the Debian packages that are missing
# need_python            makes $top/.venv from pyproject.toml, once for each state of what it declares there
# Both print nothing when there is nothing to do, and may run at the same time in two shells.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv="$top/.venv"

say() { printf '%s\n' "$*" >&2; }

need_root() {
    [ "$(id -u)" -eq 0 ] || { say "$(basename "$0"): run me as root: network namespaces need it"; exit 1; }
}

need_packages() {
    local missing=() name
    for name in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    say "installing Debian packages: ${missing[*]}"
    (
        flock 9
        export DEBIAN_FRONTEND=noninteractive
        log=$(mktemp)
        apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 ||
            { apt-get update >"$log" 2>&1 &&
              apt-get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; } ||
            { tail -20 "$log" >&2; say "could not install: ${missing[*]}"; rm -f "$log"; exit 1; }
        rm -f "$log"
    ) 9>/run/lock/mesokit-setup.lock
}

need_python() {
    need_packages python3 python3-venv libpython3.11 libnftables1 iproute2
    (
        flock 9
        # The tools' own settings, which stand behind the packages, change nothing that is installed.
        want=$(sed '/^\[tool\.ruff/,$d' "$top/pyproject.toml" | sha256sum | cut -d' ' -f1)
        [ "$(cat "$venv/.made-from" 2>/dev/null)" = "$want" ] && exit 0
        say "preparing Python packages in $venv"
        # Debian's interpreter, not whichever python3 stands first in PATH: the bundles carry this one along.
        /usr/bin/python3 -m venv "$venv" &&
            PYTHONDONTWRITEBYTECODE='' "$venv/bin/pip" install -qq --disable-pip-version-check --compile -e "$top[dev]" >&2 &&
            printf '%s\n%s\n' "$top" "$top/proto" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mesokit.pth" &&
            echo "$want" >"$venv/.made-from"
    ) 9>/run/lock/mesokit-setup.lock
}
