"""From clips to features and their statistics: extraction, the calculator, the metric of Flax."""
