"""What tools/web_demo.py does: load a detector, then serve the page until Ctrl-C."""

import argparse
import importlib.util
import ipaddress
import os
import tempfile

from dk_detr.detector import load
from dk_detr.engine.setup import one_clear_error


def main(args: argparse.Namespace) -> None:
    """See tools/web_demo.py for the arguments."""
    with one_clear_error():
        _check(args)
        detector = load(args.source, args.weights)
        from dk_detr.commands.web_demo.page import Page  # Gradio takes seconds to import, and is not always there

        with tempfile.TemporaryDirectory(prefix="dk_detr_web_demo_") as folder:
            os.environ["GRADIO_TEMP_DIR"] = folder  # pictures of visitors end with the server
            page = Page(detector)
            address = page.open(args.host, args.port, args.max_megabytes)
            print(f"{detector!r}\nOpen {address} in a browser. Ctrl-C ends it.", flush=True)
            if not _is_loopback(args.host):
                print("Everybody who reaches this machine can use the page: it asks for no password.", flush=True)
            page.wait()


def _check(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("The web demo needs Gradio: pip install -e '.[demo]'.")
    if not 0 < args.port < 2**16:
        raise ValueError(f"--port {args.port} must be between 1 and 65535.")
    if args.max_megabytes <= 0:
        raise ValueError(f"--max-megabytes {args.max_megabytes} must be above 0.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
