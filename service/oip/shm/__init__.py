"""POSIX shared memory: objects, and the regions that clients register."""
