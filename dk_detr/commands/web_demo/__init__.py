"""Web demo: a page to drop a picture on and to say the words to look for. See tools/web_demo.py."""

from dk_detr.commands.web_demo.main import main

__all__ = ["main"]
