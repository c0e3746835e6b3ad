"""The room that learns properties from labelled proteins."""
