"""A document that a DEL may want, in a file that outlives the machine's restart: a delegate's configuration
as it was rendered (what made it may have changed, or be gone, when the attachment goes), or what an interface
was before, for another plugin's DEL.
"""

import json
from pathlib import Path
from typing import Any

from cni_plugins.spec import files
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import JsonObject, dump_json, parse_json
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step


def read(path: Path) -> JsonObject | None:
    """The document in a file; None without one, or when it holds none (its writer died)."""
    try:
        document = parse_json(files.read(path))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


@step
class DelegateFile(Step):
    """`config` in the file `path`."""

    path: str
    config: dict[str, Any]

    def apply(self, context: Context) -> None:
        """Write it whole or not at all. CniError 5."""
        path = Path(self.path)
        new = f"{self.path}.new"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(new, dump_json(self.config).encode(), mode=0o600)
            Path(new).replace(path)
        except OSError as error:
            raise CniError(Code.IO, f"cannot write {path}, which DEL reads", str(error)) from error

    def undo(self, context: Context) -> None:
        """Remove the file if it still holds what was written, and what a death in the middle left."""
        Path(f"{self.path}.new").unlink(missing_ok=True)
        if read(Path(self.path)) == json.loads(dump_json(self.config)):
            Path(self.path).unlink(missing_ok=True)
