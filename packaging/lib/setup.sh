# Sourced by the commands of this folder: brings a bare Debian 12 to where they can run.
# need_packages NAME...  installs the Debian packages that are missing
# need_python            makes $top/.venv from requirements.lock, once for each state of it and of pyproject.toml
# need_kernel            unpacks Debian's kernel for virtual machines into $top/build/kernel; installs nothing
# need_unpacked NAME...  unpacks Debian packages into $top/build/unpacked; installs, and so starts, nothing
# All print nothing when there is nothing to do, and may run at the same time in two shells.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv="$top/.venv"

say() { printf '%s\n' "$*" >&2; }

need_root() {
    [ "$(id -u)" -eq 0 ] || { say "$(basename "$0"): run me as root: network namespaces need it"; exit 1; }
}

# Runs a function alone. The lock is a folder of the caller's own, opened for reading only: where others may
# write they could have put a link to a file that root would open.
locked() {
    local folder=$1
    shift
    mkdir -p -m 0700 "$(dirname "$folder")" 2>/dev/null || true
    mkdir -m 0700 "$folder" 2>/dev/null || true
    { [ -d "$folder" ] && [ ! -L "$folder" ] && [ -O "$folder" ]; } ||
        { say "$folder is not a directory of user $(id -un): remove it"; exit 1; }
    (
        flock 9
        "$@"
    ) 9<"$folder"
}

need_packages() {
    local missing=() name
    for name in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" -eq 0 ] || { say "these Debian packages are missing, and only root can install them: ${missing[*]}"; exit 1; }
    say "installing Debian packages: ${missing[*]}"
    locked /run/mesokit-setup install_packages "${missing[@]}"
}

install_packages() {
    local log
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 ||
        { apt-get update >"$log" 2>&1 && apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1; } ||
        { tail -20 "$log" >&2; say "could not install: $*"; rm -f "$log"; exit 1; }
    rm -f "$log"
}

need_python() {
    need_packages python3 python3-venv libpython3.11 libnftables1 iproute2
    locked "$top/build/.setup" make_venv
}

# Debian's interpreter, not whichever python3 stands first in PATH: the bundles carry this one along.
make_venv() {
    local want
    # The tools' own settings, which stand behind the packages, change nothing that is installed.
    want=$({ sed '/^\[tool\.ruff/,$d' "$top/pyproject.toml"; cat "$top/packaging/requirements.lock"; } | sha256sum | cut -d' ' -f1)
    [ "$(cat "$venv/.made-from" 2>/dev/null)" = "$want" ] && return 0
    say "preparing Python packages in $venv"
    export PYTHONDONTWRITEBYTECODE='' PIP_DISABLE_PIP_VERSION_CHECK=1
    /usr/bin/python3 -m venv "$venv" &&
        "$venv/bin/pip" install -qq --compile --require-hashes --only-binary :all: -r "$top/packaging/requirements.lock" >&2 &&
        "$venv/bin/pip" install -qq --no-index --no-deps --no-build-isolation -e "$top" >&2 &&
        printf '%s\n%s\n' "$top" "$top/proto" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mesokit.pth" &&
        echo "$want" >"$venv/.made-from"
}

# The one that is there is used for good; for a newer one remove build/kernel.
need_kernel() {
    compgen -G "$top/build/kernel/linux-image-*" >/dev/null || locked "$top/build/.setup" fetch_kernel
}

fetch_kernel() {
    local meta name work="$top/build/.kernel"
    compgen -G "$top/build/kernel/linux-image-*" >/dev/null && return 0
    meta="linux-image-cloud-$(dpkg --print-architecture)"
    name=$(kernel_of "$meta") || { apt-get update >/dev/null 2>&1; name=$(kernel_of "$meta"); } ||
        { say "no package $meta in the package lists"; exit 1; }
    say "unpacking Debian's kernel $name into build/kernel"
    rm -rf "$work"
    mkdir -p "$work" "$top/build/kernel"
    (cd "$work" && { apt-get download -q "$name" || { apt-get update && apt-get download -q "$name"; }; } >log 2>&1) ||
        { tail -5 "$work/log" >&2; say "could not download $name"; exit 1; }
    dpkg -x "$work"/*.deb "$work/new"
    mv "$work/new" "$top/build/kernel/$name"
    rm -rf "$work"
}

need_unpacked() {
    local name
    for name in "$@"; do
        [ -d "$top/build/unpacked/$name" ] || locked "$top/build/.setup" unpack "$name"
    done
}

unpack() {
    local work="$top/build/.unpack"
    [ -d "$top/build/unpacked/$1" ] && return 0
    say "unpacking Debian's $1 into build/unpacked"
    rm -rf "$work"
    mkdir -p "$work" "$top/build/unpacked"
    (cd "$work" && { apt-get download -q "$1" || { apt-get update && apt-get download -q "$1"; }; } >log 2>&1) ||
        { tail -5 "$work/log" >&2; say "could not download $1"; exit 1; }
    dpkg -x "$work"/*.deb "$work/new"
    mv "$work/new" "$top/build/unpacked/$1"
    rm -rf "$work"
}

kernel_of() { apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | grep -m1 .; }
