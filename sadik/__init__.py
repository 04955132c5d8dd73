"""Sadik: an eventually consistent, leaderless key-value store after the Dynamo paper.

The parts that are libraries of their own: ``sadik.hashing`` (ring, Merkle tree, digests), ``sadik.causality``
(vector clocks, version sets) and ``sadik.storage`` (the log engine). None of them imports a server.
"""

__version__ = "0.1.0"
