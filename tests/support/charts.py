"""Charts as matplotlib draws them."""

from matplotlib.figure import Figure


def drawn(chart):
    figure = Figure()
    ax = figure.subplots()
    chart.draw(ax)
    return ax
