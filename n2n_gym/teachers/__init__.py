"""Teachers: networks that are trained or scored once; the cache keeps the results."""
