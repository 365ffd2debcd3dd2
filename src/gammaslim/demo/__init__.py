"""A demonstration on scikit-learn's digits: train, slim, prove, fine-tune, save, load, measure."""
