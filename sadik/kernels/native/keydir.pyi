"""The log engine's index: where the newest record of each digest is. Open addressing, ordered by digest, <= 40 bytes a key.

See the stub's functions; to be completed with the kernel.
"""
