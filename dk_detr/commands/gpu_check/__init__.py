"""What stands behind tools/gpu_check.py: does everything work on this machine, and how fast? Parts, each in a process
of its own, that write down what they find as they go."""
