"""libnftables, the compiler of nft's language, loaded into this process.

A context's netlink socket is opened by nft_ctx_new(3), in the namespace that the calling thread is in,
and stays there; a context costs 30 µs, so each script gets its own. The library keeps tables of its own
that are shared by all contexts and does not say that it may be entered by two threads, so it never is.
"""

import ctypes
import threading
from functools import cache
from typing import Any

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

_JSON = 1 << 4
_HANDLE = 1 << 3
_one_at_a_time = threading.Lock()


@cache
def load() -> Any:
    """libnftables, loaded once. CniError 999 without it."""
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise CniError(
            Code.INTERNAL,
            "libnftables.so.1 cannot be loaded: install libnftables1, or use the iptables backend",
            str(error),
        ) from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in (
        "nft_ctx_free",
        "nft_ctx_buffer_output",
        "nft_ctx_buffer_error",
        "nft_ctx_get_output_buffer",
        "nft_ctx_get_error_buffer",
    ):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    return library


class ScriptError(Exception):
    """nft refused a script; the text is its own."""


def run(namespace: Namespace, script: str, *, json: bool = False) -> str:
    """Run `script` in `namespace` as one transaction and return what it prints.

    ScriptError with nft's text when it is refused (nothing was changed then); CniError 999 without the
    library.
    """
    library = load()
    with _one_at_a_time:
        with entered(namespace):
            context = library.nft_ctx_new(0)
        if not context:
            raise CniError(
                Code.INTERNAL, "libnftables cannot open a netfilter socket: is nf_tables in this kernel?"
            )
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            if json:
                library.nft_ctx_output_set_flags(context, _JSON | _HANDLE)
            status = library.nft_run_cmd_from_buffer(context, script.encode())
            if status != 0:
                text = library.nft_ctx_get_error_buffer(context).decode("utf-8", "replace")
                raise ScriptError(text.splitlines()[0] if text else f"status {status}")
            return str(library.nft_ctx_get_output_buffer(context).decode("utf-8", "replace"))
        finally:
            library.nft_ctx_free(context)
