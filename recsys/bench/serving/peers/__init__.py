"""One server each, as its own documentation says; every file runs alone, and gets its port and workers as arguments."""
