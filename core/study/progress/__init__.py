"""How long cells take, and how much is done."""
