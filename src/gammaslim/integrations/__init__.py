"""Other people's trainers: each file is imported where its user imports it, and needs its extra."""
