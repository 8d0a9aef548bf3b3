"""An independent model of the rules: written from the design a second time, sharing no code with the worker.

`dev.oracle.shop` applies events one by one, in the order in which they took effect, and returns what each must lead to.
`dev.oracle.history` takes events whose order is unknown, and checks whether what was observed is possible at all.

Written for clarity, not speed. It never imports `domain`, `schemas`, `storage`, `workers` or `inventory`: no test could
see a mistake that model and worker share.
"""
