"""Commands: what stands behind each file of tools/, from its arguments to what it prints and writes."""
