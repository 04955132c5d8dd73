"""Real node processes under kill -9, SIGSTOP, splits and rotting disks, judged by the simulator's checkers.

``python -m tests.system.torture --minutes 60``; a short form runs with the other tests of this directory.
"""
