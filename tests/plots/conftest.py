"""Axes to draw on."""

import pytest
from matplotlib import pyplot as plt


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")
