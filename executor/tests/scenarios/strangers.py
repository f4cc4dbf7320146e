"""Running the executor for a user that may not even reach the checkout.

A checkout may lie in a folder that only root enters, or below /tmp, which a scenario takes away. In a mount
namespace of its own the executor then finds the checkout's folders where they were, below an empty place that
everybody may enter.
"""

import shlex
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]


def _covered(top: Path, *, no_tmp: bool) -> Path | None:
    """What to put an empty folder over: the first on the way to `top` that others may not enter, or /tmp."""
    way = [*reversed(top.parents), top][1:]
    if no_tmp and way[0] == Path("/tmp"):
        return way[0]
    return next((place for place in way if not place.stat().st_mode & 0o001), None)


def as_user(uid: int, *, poor_tmp: bool = False) -> list[str]:
    """The words to put before a program so that it runs as `uid`, a user without a name; with `poor_tmp`
    /tmp is tiny, read-only and noexec.
    """
    lines = ["set -e", "start=$PWD"]
    place = _covered(TOP, no_tmp=poor_tmp)
    if place is not None:
        folders = [shlex.quote(item.name) for item in TOP.iterdir() if item.is_dir()]
        lines += [
            "mount -t tmpfs none /mnt && mkdir /mnt/top",
            f"mount --bind {shlex.quote(str(TOP))} /mnt/top",
            f"mount -t tmpfs -o mode=755 none {shlex.quote(str(place))}",
            f"umask 022; mkdir -p {shlex.quote(str(TOP))}; cd {shlex.quote(str(TOP))}",
            f"for name in {' '.join(folders)}; do mkdir -p $name; mount --bind /mnt/top/$name $name; done",
            "cd /; umount /mnt/top; umount /mnt",
        ]
    if poor_tmp and place == Path("/tmp"):
        lines.append("mount -o remount,noexec,ro /tmp")
    elif poor_tmp:
        lines.append("mount -t tmpfs -o noexec,ro,size=4k none /tmp")
    lines.append(f'cd "$start"; exec setpriv --reuid={uid} --regid={uid} --clear-groups -- "$@"')
    return [
        "/usr/bin/unshare", "--mount", "--propagation=private", "/bin/sh", "-c", "\n".join(lines), "sh"
    ]  # fmt: skip
