"""Known bugs of such stores, planted in the shipped code one at a time, to see that the checkers notice.

A *mutant* (``mutant.py``) is a context that replaces a part of the shipped code by one with a bug that
history knows, those of Riak, Cassandra, Scylla and others. ``catalogue.py`` has all of them, and says of each
bug that has none why. ``hunt.py`` runs seeds of the campaign's profiles until a checker notices.

``python -m tests.mutants``, or ``make mutants``, hunts all of them. Tests hunt those that are found at once.
"""
