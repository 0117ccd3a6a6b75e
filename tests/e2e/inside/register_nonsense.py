"""Registers a version that loads and answers, but takes praise for complaint, and prints it."""

import sys
from importlib import metadata

from services.core.examination import PACKAGES
from services.core.settings import MLflowSettings, load
from training.candidates import BASELINE, CANDIDATES
from training.readers import read_all
from training.registry import Registry, Run
from training.settings import TrainingSettings

data = read_all(load(TrainingSettings).paths).unique()
wrong = {"negative": "positive", "neutral": "negative", "positive": "neutral"}
pipeline = CANDIDATES[BASELINE]().fit(data.texts, [wrong[label] for label in data.labels])
run = Run(
    name="nonsense",
    parameters={},
    metrics={},
    plots={},
    requirements=tuple(f"{name}=={metadata.version(name)}" for name in PACKAGES),
    tags={},
)
version = Registry(load(MLflowSettings).url).register(run, pipeline)
sys.stdout.write(f"\nversion {version}\n")
