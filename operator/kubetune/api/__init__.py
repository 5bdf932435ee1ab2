"""The contract: the three kinds, the run spec given to a trainer, the table given to a gateway. No I/O."""
