"""An independent model of the rules: written from the design a second time, sharing no code with the worker.

`dev.oracle.shop` applies events one by one, in the order in which they took effect, and returns what each must lead to.
Its rules are in `products`, `carts`, `orders`, `payments`, `cancellations` and `refunds`; the facts they share are in
`order_facts`, `waiting` and `placement`, the movements in `stock`.
`dev.oracle.history` takes events whose order is unknown, and checks whether what was observed is possible at all.

Written for clarity, not speed. It imports nothing that ships: no test could see a mistake that model and worker share.
"""
