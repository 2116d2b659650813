"""What tools/label.py does: annotations of a folder of images, by a detector."""
