"""Visualization: what people would rather see than read. Detections in pictures, curves of a run, runs side by side."""
