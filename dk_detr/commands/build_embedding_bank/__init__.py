"""What tools/build_embedding_bank.py does: regions of the training images, and what CLIP sees in them, on disk."""
