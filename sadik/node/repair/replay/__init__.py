"""Delivery of hints to owners that are back (Dynamo 4.6).

``parcels`` makes hints into what is sent, as plain values; ``service`` decides when, sends it and waits for
the answers.
"""
