"""Learning a property from labelled proteins: heads, adapters, fitting, prediction."""
