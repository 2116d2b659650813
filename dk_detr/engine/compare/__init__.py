"""Compare: several configs trained side by side, drawn in one picture. See tools/compare_runs.py."""

from dk_detr.engine.compare.main import main

__all__ = ["main"]
