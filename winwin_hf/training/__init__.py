"""Training by a recipe, with states that resume exactly."""
