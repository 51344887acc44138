"""Models, data sets and Spaces to the Hub, with their cards."""
