"""The door: who calls, what they may do, and how errors and repeated calls are answered."""
