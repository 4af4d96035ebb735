"""What every exchange over HTTP keeps to: who gets a credential, and how much, how long and how slowly others may send."""
