"""What a person decides: quarantine emptied, a checkpoint set anew after a restore."""
