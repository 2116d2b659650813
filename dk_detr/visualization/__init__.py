"""Visualization: detections in pictures, the training curves of a run, the curves of several runs side by side."""
