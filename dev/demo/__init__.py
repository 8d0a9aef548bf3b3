"""`inventory demo`: embedded servers, the real worker, a simulated shop, and a live screen."""
