"""What responses are made of: steps, connectors and loops from their texts; entropy and gradients with a model."""
