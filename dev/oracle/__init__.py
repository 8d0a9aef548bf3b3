"""What the rules say must happen, written a second time from the design and sharing no code with the worker.

`dev.oracle.shop` takes events one by one, in the order in which they took effect, and says what each must lead to.
`dev.oracle.history` takes events whose order nobody knows, and says whether what was observed is allowed at all.

Written for clarity, not speed. It never imports `domain`, `schemas`, `storage`, `workers` or `inventory`, and is no
part of what ships: a mistake shared with the code under test would be a mistake that no test can see.
"""
