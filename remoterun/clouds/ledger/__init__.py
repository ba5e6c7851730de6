"""Hosts that are rented: what they will cost, how they are got, and what they have cost."""
