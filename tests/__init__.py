"""Tests, in folders by kind: unit (no server), integration (real servers), acceptance (the program as it is used)."""
