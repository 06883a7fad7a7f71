"""Critical points of small networks: found, certified, left; what papers/saddles.py is made of."""
