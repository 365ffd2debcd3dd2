"""Files that earlier versions wrote, and the networks that they were made from."""
