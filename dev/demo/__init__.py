"""`inventory demo`: embedded servers, the real worker, an imagined shop, and a screen that follows them."""
