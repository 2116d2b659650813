"""Embedding bank: building one, and asking whether one fits before training starts."""
