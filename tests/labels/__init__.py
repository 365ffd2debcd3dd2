"""Labels and what they come to, without any network: answers worked out by hand."""
