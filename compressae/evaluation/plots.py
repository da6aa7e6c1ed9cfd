"""The report's picture."""

from pathlib import Path

import numpy as np

from compressae.evaluation.protocol import Evaluation


def draw(evaluation: Evaluation, path: Path) -> bool:
    """Recall@100 against held bytes an item, as a PNG; False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for record in evaluation.records:
        if record.error is None:
            place = (record.bytes_an_item, float(np.mean(record.recall100)))
            axes.scatter(*place)
            axes.annotate(record.method, place, xytext=(6, 4), textcoords="offset points")
    axes.set(xlabel="bytes an item held by search", ylabel="recall@100", ylim=(0, 1.05))
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)
    return True
