"""What a model does over a whole data set: importance of features, shapes of effects, surrogates."""
