"""Other attribution methods, evaluated on the same retrainings."""
