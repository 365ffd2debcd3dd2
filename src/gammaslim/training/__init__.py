"""A penalty at work inside an optimizer, and cuts while training goes on."""
