"""The gateway before every engine: keeps adapters as the table says, routes requests by model name."""
