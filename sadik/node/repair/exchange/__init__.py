"""Anti-entropy: two primaries of a partition compare their Merkle trees and mend what differs (Dynamo 4.7).

``messages`` is what they say, ``holdings`` what one of them has, ``comparison`` and ``answers`` the two sides
of the talk as plain machines, ``service`` the timer, the calls and the counters.
"""
