"""Orders: what each fact means in each state of its order; one module per command, with its rule in the docstring.

Refusals are values, and they are final: a redelivered event is not judged again. Facts that arrive before they can be
applied wait in `Order.waiting`, and are judged when they can be.

Units refunded without restock never go back on hand, whether the refund or the cancellation of the whole order is read
first. If the refund is read last, it takes the units off again (see the decision record on refunds without restock).
"""
