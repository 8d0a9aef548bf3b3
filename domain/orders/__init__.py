"""Orders: what each fact means in each state of its order; one module per command, with its rule in the docstring.

Refusals are values, and they are final: a redelivered event is not judged again. Facts that arrive before they can be
applied wait in `Order.waiting`, and are judged when they can be.

A refund may be the money of cancelled units: of the two, only the larger number goes back on hand, whichever is read
first (see the decision record on cancellations and refunds). Units refunded without restock never go back. If such a
refund is read after the cancellation, it takes the units off again.
"""
