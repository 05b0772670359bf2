"""What is fitted: factors, the loss and its presets, the table on the device and how its rows are laid out."""
