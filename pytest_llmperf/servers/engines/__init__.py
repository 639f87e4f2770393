"""The engines that servers run: one file each, and the table of them."""
