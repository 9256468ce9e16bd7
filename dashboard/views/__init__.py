"""The pages of the board: they fetch, hand over to frames and charts, and lay out."""
