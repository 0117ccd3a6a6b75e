"""Pictures of an evaluation, for the registry."""

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from services.core.contract import LABELS
from training.evaluate import Evaluation


def confusion(evaluation: Evaluation) -> Figure:
    """How often each label was taken for each."""
    figure, axes = _figure("Confusion matrix")
    supports = [max(sum(row), 1) for row in evaluation.confusion]
    shares = [
        [count / support for count in row]
        for row, support in zip(evaluation.confusion, supports, strict=True)
    ]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for y, row in enumerate(evaluation.confusion):
        for x, count in enumerate(row):
            share = shares[y][x]
            color = "white" if share > 0.5 else "black"
            axes.text(x, y, f"{count}\n{share:.0%}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), LABELS)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def calibration(evaluation: Evaluation) -> Figure:
    """How often the likeliest label is right, by its probability."""
    figure, axes = _figure(f"Calibration, expected error {evaluation.calibration_error:.3f}")
    axes.plot([0, 1], [0, 1], linestyle="--", color="grey", label="perfect")
    bins = evaluation.calibration
    axes.plot(
        [part.confidence for part in bins],
        [part.accuracy for part in bins],
        marker="o",
        label="model",
    )
    for part in bins:
        axes.annotate(
            str(part.rows),
            (part.confidence, part.accuracy),
            textcoords="offset points",
            xytext=(4, -12),
            fontsize=8,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the likeliest label (numbers: rows)")
    axes.set_ylabel("share of rows where it is right")
    axes.legend()
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes
