"""What dies, hangs or comes twice, on the whole backend as it is deployed."""
