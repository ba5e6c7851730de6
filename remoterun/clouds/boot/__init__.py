"""What a rented host of any provider needs at its start and at its end."""
