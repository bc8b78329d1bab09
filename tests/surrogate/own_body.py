from torch import nn


def two_layers(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, outputs))


def wrong_shape(inputs, outputs):
    return nn.Linear(inputs, 5)


def no_module(inputs, outputs):
    return 7
