"""Compare: several configs trained side by side, drawn in one picture. See tools/compare_runs.py."""

from dk_detr.commands.compare_runs.main import main

__all__ = ["main"]
