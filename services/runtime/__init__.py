"""What two or more services share; it imports none of them."""
